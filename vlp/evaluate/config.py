"""What an evaluation is told: which model, which studies, which questions, and every choice a figure depends on."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.metrics.policy import LabelPolicy
from vlp.records import Split

Task = Literal["classification", "grounding", "retrieval"]
Prompts = Literal["descriptors", "finding", "both"]
PositiveInt = Annotated[int, Field(ge=1)]

DIFFUSE: frozenset[str] = frozenset({"edema", "emphysema", "fibrosis", "cardiomegaly", "support device"})
"""Findings that fill so much of an image, or run so thinly through it, that pointing at them means little."""


class EvaluateConfig(Config):
    """One evaluation of one checkpoint on the studies of one split."""

    checkpoint: Path
    """Folder of the model."""
    shards: Path
    """Folder of the shards."""
    output: Path
    """Where predictions/, examples/, results.json, report.md and report.html go."""
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = ("classification", "grounding", "retrieval")
    split: Split = "test"
    """The studies that are scored."""
    threshold_split: Split = "val"
    """The studies that mask thresholds are chosen on; they may share no patient with `split`."""
    findings: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """What is asked, in any known spelling.  "auto": findings that have prompts and a positive study in `split`."""
    focal: Literal["auto"] | tuple[str, ...] = "auto"
    """Findings whose pointing game enters the macro average.  "auto": those with regions, diffuse ones left out."""
    views: Literal["frontal", "mean"] = "frontal"
    """Score of a study: that of its first frontal image (none: refused and counted), or the mean over its images."""
    prompts: Prompts = "both"
    """What the diagnosis follows from: descriptors, the finding named directly, or both."""
    compared_prompts: tuple[Prompts, ...] = ("finding",)
    """Further scores that are reported beside the main one, under their own names."""
    grounding_prompts: Literal["finding", "sides"] = "finding"
    """Whose map is compared with the regions. finding: that of "There is F."; sides: the patch-wise maximum over it
    and F said of the left and of the right, for models whose training sentences nearly always name a side."""
    uncertain: LabelPolicy = "ignore"
    """What a label "uncertain" counts as.  Unmentioned findings are always left out."""
    gallery: Annotated[tuple[Split, ...], Field(min_length=1)] = ("test",)
    """Splits whose studies can be retrieved by the studies of `split`; a patient's own studies never answer."""
    ks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10)
    """Ranks at which precision is reported."""
    ndcg_k: PositiveInt = 10
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Patient resamples behind every interval."""
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    seed: int = 0
    """Of the resampling; nothing else is random."""
    batch_images: PositiveInt = 32
    device: str = "auto"
    examples: Annotated[int, Field(ge=0)] = 9
    """Studies shown in the report, chosen by a stated rule."""

    @model_validator(mode="after")
    def _thresholds_come_from_elsewhere(self) -> "EvaluateConfig":
        if self.split == self.threshold_split:
            raise ValueError(f"split and threshold_split are both {self.split!r}; thresholds need studies of their own")
        return self

    @property
    def score_names(self) -> tuple[Prompts, ...]:
        """The main score first, then those compared with it."""
        return (self.prompts, *(name for name in self.compared_prompts if name != self.prompts))
