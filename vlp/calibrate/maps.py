"""From which cosine on a map is a region: per finding and part of the body, the one with the best mean Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vlp.inference.calibration import MapThreshold
from vlp.inference.lungs import ANATOMY
from vlp.inference.region_maps import region_map, region_texts
from vlp.metrics.segmentation import COSINES, best_threshold, dice_from_counts, overlaps, region_mask
from vlp.records import Region

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.prompts.descriptors import DescriptorSet
    from vlp.tensors import ImageFeatures, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompted:
    """What is looked for on maps."""

    texts: Mapping[str, tuple[str, ...]]
    """By finding or part of the body, the sentences that ask for it."""

    @classmethod
    def of(cls, names: Sequence[str], descriptors: "DescriptorSet", *, sides: bool) -> "Prompted":
        """The sentences for the names that there are any for."""
        texts = {}
        for name in names:
            if name in ANATOMY:
                texts[name] = ANATOMY[name]
            elif name in descriptors.findings:
                named = descriptors.of(name, prompts="finding")[0].positive
                texts[name] = region_texts(name, named, sides=sides)
        return cls(texts=texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Dice at every threshold, of every map that was looked at."""

    prompted: Prompted
    found: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def look(
        self, engine: "Engine", features: "ImageFeatures", placement: "Placement", regions: Sequence[Region]
    ) -> None:
        """Adds one image.

        Args:
            engine: the model.
            features: of the one image.
            placement: where its pixels went.
            regions: those on this image.

        Raises:
            DataError: for a region that does not fit the image.
        """
        for name in self.prompted.texts:
            rows, columns = placement.original
            truth = region_mask((one for one in regions if one.finding == name), rows=rows, columns=columns)
            if truth is not None:
                values = placement.map_to_original(region_map(engine, features, name, self.prompted.texts[name])[0])
                counts = overlaps(values, truth, COSINES)
                self.found.setdefault(name, []).append(dice_from_counts(*counts))

    def thresholds(self) -> dict[str, MapThreshold]:
        """The best threshold of everything that has a region."""
        chosen = {}
        for name, curves in sorted(self.found.items()):
            table = np.array(curves)
            threshold = best_threshold(table, COSINES)
            at = int(np.argmin(np.abs(COSINES - threshold)))
            chosen[name] = MapThreshold(
                threshold=threshold,
                texts=self.prompted.texts[name],
                dice=float(np.nan_to_num(table[:, at]).mean()),
                images=len(table),
            )
        return chosen
