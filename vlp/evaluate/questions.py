"""What is asked of every study of an evaluation: findings, region names, sentences, and by whose measure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.predictions import Provenance
from vlp.inference.lungs import ANATOMY
from vlp.inference.region_maps import region_map, region_texts
from vlp.prompts.descriptors import DescriptorSet
from vlp.records import Certainty

if TYPE_CHECKING:
    from vlp.evaluate.prior import Priors
    from vlp.inference.calibration import Calibration
    from vlp.inference.engine import Engine
    from vlp.inference.gate import Gate
    from vlp.tensors import ImageFeatures


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked of every study, and the columns that all answers share."""

    findings: tuple[str, ...]
    descriptors: DescriptorSet
    provenance: Provenance
    sides: bool = False
    """Whether a finding is also looked for on the left and on the right, see `EvaluateConfig.grounding_prompts`."""
    anatomy: tuple[str, ...] = ()
    """Region names that are no findings."""
    priors: "Priors" = field(default_factory=dict)
    """Mean training masks by finding or region name; empty where nobody asked for them."""
    calibration: "Calibration | None" = None
    gate: "Gate | None" = None

    @property
    def calibrated(self) -> tuple[str, ...]:
        """The findings that the calibration gives probabilities for."""
        calibration = self.calibration
        return () if calibration is None else tuple(name for name in self.findings if calibration.knows(name))

    def texts(self, name: str) -> tuple[str, ...]:
        """The sentences whose maps are compared with the regions of a finding, or of a part of the body."""
        if name in self.anatomy:
            return ANATOMY[name]
        named = self.descriptors.of(name, prompts="finding")[0].positive
        return region_texts(name, named, sides=self.sides)

    def maps(self, engine: "Engine", features: "ImageFeatures", name: str) -> Float[np.ndarray, "image rows columns"]:
        """The map on every image: patch by patch the highest of a finding's sentences, the mean of an anatomy's."""
        return region_map(engine, features, name, self.texts(name))


def resolve_findings(reader: ShardReader, config: EvaluateConfig, descriptors: DescriptorSet) -> tuple[str, ...]:
    """The findings to ask for, in the descriptor set's own names, sorted.

    Raises:
        DataError: for a name nobody knows.
    """
    if config.findings != "auto":
        return tuple(sorted({descriptors.resolve(name) for name in config.findings}))
    positive = {
        finding
        for study in reader.studies(config.split)
        for finding, certainty in study.labels.items()
        if certainty == Certainty.PRESENT
    }
    return tuple(sorted(positive & set(descriptors.findings) - {"no finding"}))


def resolve_anatomy(reader: ShardReader, config: EvaluateConfig, findings: Sequence[str]) -> tuple[str, ...]:
    """The region names to ask for that are no findings, sorted; none unless the task is asked for.

    Raises:
        DataError: for a configured name that there are no prompts for.
    """
    if "anatomy" not in config.tasks:
        return ()
    if config.anatomy != "auto":
        unknown = [name for name in config.anatomy if name not in ANATOMY]
        if unknown:
            raise DataError(f"anatomy: no prompts for {unknown[0][:60]!r}; known are {', '.join(ANATOMY)}")
        return tuple(sorted(set(config.anatomy)))
    located = {region.finding for study in reader.studies(config.split) for region in study.regions}
    return tuple(sorted(located & set(ANATOMY) - set(findings)))


def prompts_of(descriptors: DescriptorSet, findings: Sequence[str]) -> list[tuple[str, str, str]]:
    """(descriptor id, positive, negative) of every pair that is asked: what `prompt_set_hash` is made from."""
    return [
        (pair.id, pair.positive, pair.negative)
        for finding in findings
        for pair in descriptors.of(finding, prompts="both")
    ]


def findings_labelled(certainty: Certainty, labels: Mapping[str, Certainty], findings: Sequence[str]) -> list[str]:
    """Which of the findings a study is labelled with that certainty for, in their order."""
    return [finding for finding in findings if labels.get(finding) == certainty]
