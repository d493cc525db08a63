"""The studies that explanations are tested on: looked at once, with what the model says and what is known of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from vlp.data import ShardReader
from vlp.data.flips import FlipsConfig, flips
from vlp.errors import DataError
from vlp.inference.classify import Evidence, weigh
from vlp.inference.pooling import Pooling
from vlp.log import progress
from vlp.prompts.descriptors import DescriptorSet
from vlp.records import Certainty, Split, Study
from vlp.reports.findings import NO_FINDING, sentence_text
from vlp.reports.locations import compose, parts
from vlp.tensors import ImageFeatures

if TYPE_CHECKING:
    from vlp.data.transforms import SeenImage
    from vlp.inference.calibration import Calibration
    from vlp.inference.engine import Engine

Side = Literal["left", "right"]
_OTHER: dict[str, Side] = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A finding of a study, and what is known of it."""

    number: int
    """Of the study, within the sample."""
    finding: str
    certainty: Certainty


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """A finding that is surely on one side only, said of its own side and of the other."""

    number: int
    """Of the study, within the sample."""
    finding: str
    side: Side
    """The patient's own, where the finding is."""
    own: str
    """The sentence with that side."""
    swapped: str
    """The same sentence with the other side."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some studies, one frontal image each, and what the model makes of them."""

    engine: "Engine"
    descriptors: DescriptorSet
    findings: tuple[str, ...]
    """What is asked: findings with prompts that are present in one of the studies, sorted."""
    studies: tuple[Study, ...]
    seen: tuple["SeenImage", ...]
    features: ImageFeatures
    pooling: Pooling | None = None
    """How descriptors become a score; None: their geometric mean."""
    calibration: "Calibration | None" = None

    @property
    def patients(self) -> list[str]:
        """The patient of every study."""
        return [study.person.id for study in self.studies]

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence for every finding on every image."""
        return weigh(self.engine, self.features, self.findings, descriptors=self.descriptors, pooling=self.pooling)

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """Every finding of every study that its labels call present or absent."""
        decided = (Certainty.PRESENT, Certainty.ABSENT)
        return tuple(
            Case(number=number, finding=finding, certainty=study.labels[finding])
            for number, study in enumerate(self.studies)
            for finding in self.findings
            if study.labels.get(finding) in decided
        )

    @cached_property
    def present(self) -> tuple[Case, ...]:
        """The cases whose finding is there."""
        return tuple(case for case in self.cases if case.certainty is Certainty.PRESENT)

    @cached_property
    def one_sided(self) -> tuple[OneSided, ...]:
        """Every finding that is surely on one side only, by the rules of the flips of training."""
        return tuple(case for number, study in enumerate(self.studies) for case in _one_sided(number, study))

    def one_each(self, *, most: int) -> tuple[Case, ...]:
        """One present finding of each study, at most `most`; findings take turns, so that none fills the list."""
        used: dict[str, int] = dict.fromkeys(self.findings, 0)
        chosen = []
        by_study: dict[int, list[Case]] = {}
        for case in self.present:
            by_study.setdefault(case.number, []).append(case)
        for cases in list(by_study.values())[:most]:
            case = min(cases, key=lambda one: used[one.finding])
            used[case.finding] += 1
            chosen.append(case)
        return tuple(chosen)

    def named(self, finding: str) -> str:
        """The sentence that names a finding."""
        return self.descriptors.of(finding, prompts="finding")[0].positive

    def maps(
        self, texts: Sequence[str], features: ImageFeatures | None = None
    ) -> Float[np.ndarray, "text image grid_rows grid_columns"]:
        """Cosines on the patch grid, of the sample's images or of others; NaN at patches of padding."""
        shown = self.features if features is None else features
        values = self.engine.maps_of(texts, shown).astype(np.float64)
        if shown.padding is not None:
            values[:, shown.padding.cpu().numpy().reshape(-1, *shown.grid)] = np.nan
        return values


def look(
    engine: "Engine",
    reader: ShardReader,
    *,
    split: Split,
    studies: int,
    descriptors: DescriptorSet,
    calibration: "Calibration | None" = None,
) -> Sample:
    """The first `studies` of a split in key order that have a frontal image and labels; keys are hashes.

    Raises:
        DataError: if there is none, or none of them is labelled present for a finding of the vocabulary.
    """
    chosen: list[tuple[str, int]] = []
    for key in sorted(reader.keys(split)):
        if len(chosen) == studies:
            break
        frontal = reader.sample(key).frontal
        if frontal and reader.study(key).labels:
            chosen.append((key, frontal[0]))
    if not chosen:
        raise DataError(f"{reader.folder}: no labelled study with a frontal image in the split {split!r}")
    known = [reader.study(key) for key, _ in chosen]
    findings = _findings(known, descriptors)
    if not findings:
        raise DataError(f"{reader.folder}: no finding of the vocabulary is labelled present in {len(known)} studies")
    seen = tuple(engine.see(reader, key, index) for key, index in progress(chosen, description="reading images"))
    return Sample(
        engine=engine,
        descriptors=descriptors,
        findings=findings,
        studies=tuple(known),
        seen=seen,
        features=engine.features(seen)[0],
        pooling=None if calibration is None else calibration.pooling,
        calibration=calibration,
    )


def _findings(studies: Sequence[Study], descriptors: DescriptorSet) -> tuple[str, ...]:
    present = {
        finding
        for study in studies
        for finding, certainty in study.labels.items()
        if certainty is Certainty.PRESENT and finding != NO_FINDING
    }
    return tuple(sorted(present & set(descriptors.findings)))


def _one_sided(number: int, study: Study) -> Iterator[OneSided]:
    for text, swapped in flips(study, config=FlipsConfig(polarity=False)).items():
        other, zone = parts(swapped.location or "")
        assert other is not None
        side = _OTHER[other]
        own = sentence_text(swapped.finding, Certainty.PRESENT, location=compose(side, zone))
        yield OneSided(number=number, finding=swapped.finding, side=side, own=own, swapped=text)
