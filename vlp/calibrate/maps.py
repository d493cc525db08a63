"""From which cosine on a map is a region: per finding and part of the body, the one with the best mean Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from vlp.errors import DataError
from vlp.inference.calibration import MapThreshold
from vlp.inference.lungs import ANATOMY
from vlp.metrics.segmentation import best_threshold, box_mask, dice_from_counts, overlaps
from vlp.records import Certainty, Mask, Region
from vlp.reports.findings import VOCABULARY, sentence_text

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.prompts.descriptors import DescriptorSet
    from vlp.tensors import ImageFeatures, Placement

THRESHOLDS: Float[np.ndarray, " threshold"] = np.arange(-100, 101) / 100.0
"""Cosines that are tried: those that evaluation measures masks at."""


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
                texts[name] = tuple(dict.fromkeys((named, *(_sided(name) if sides else ()))))
        return cls(texts=texts)

    def map(
        self, engine: "Engine", features: "ImageFeatures", name: str
    ) -> Float[np.ndarray, "image grid_rows grid_columns"]:
        """On every image, patch by patch, the highest of a finding's sentences, the mean of a body part's."""
        values = engine.maps_of(self.texts[name], features)
        joined: np.ndarray = values.mean(axis=0) if name in ANATOMY else values.max(axis=0)
        return joined


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
            truth = region_mask([region for region in regions if region.finding == name], placement.original)
            if truth is not None:
                values = placement.map_to_original(self.prompted.map(engine, features, name)[0])
                counts = overlaps(values, truth, THRESHOLDS)
                self.found.setdefault(name, []).append(dice_from_counts(*counts))

    def thresholds(self) -> dict[str, MapThreshold]:
        """The best threshold of everything that has a region."""
        chosen = {}
        for name, curves in sorted(self.found.items()):
            table = np.array(curves)
            threshold = best_threshold(table, THRESHOLDS)
            at = int(np.argmin(np.abs(THRESHOLDS - threshold)))
            chosen[name] = MapThreshold(
                threshold=threshold,
                texts=self.prompted.texts[name],
                dice=float(np.nan_to_num(table[:, at]).mean()),
                images=len(table),
            )
        return chosen


def _sided(finding: str) -> tuple[str, ...]:
    if finding not in VOCABULARY:  # a descriptor file may bring findings that no template knows
        return ()
    return tuple(sentence_text(finding, Certainty.PRESENT, location=side) for side in ("left", "right"))


def region_mask(regions: Sequence[Region], shape: tuple[int, int]) -> Bool[np.ndarray, "rows columns"] | None:
    """The union of boxes and masks on an image of `shape`; None where nothing has an extent.

    Raises:
        DataError: if a mask has another size than the image.
    """
    union = np.zeros(shape, dtype=bool)
    for region in regions:
        if isinstance(region.geometry, Mask):
            pixels = region.geometry.decode()
            if pixels.shape != shape:
                raise DataError(f"a region's mask is {pixels.shape} pixels on an image of {shape}; ingest it again")
            union |= pixels
        elif region.kind == "box":
            x0, y0, x1, y1 = region.geometry  # type: ignore[misc]  # a box has four
            union |= box_mask((x0, y0, x1, y1), rows=shape[0], columns=shape[1])
    return union if union.any() else None
