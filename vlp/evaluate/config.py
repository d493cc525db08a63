"""What an evaluation is told: which model, which studies, which questions, and every choice a figure depends on."""

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.metrics.policy import LabelPolicy
from vlp.records import Split

Task = Literal["classification", "grounding", "retrieval", "negation", "anatomy", "calibration"]
Prompts = Literal["descriptors", "finding", "both"]
PublishedProtocol = Literal["radzero", "xplainer", "chexzero", "carzero", "biovil"]
"""Published ways of asking, by their names in `vlp.prompts.protocols`."""
CALIBRATED = "calibrated"
"""Name of the main score where it pools by calibrated weights; the same prompts can then be compared with it."""
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
    """What is scored.  negation: whether the model understands "no"; anatomy: maps of "the lungs" and the like;
    calibration: whether probabilities mean what they say (added by itself where `calibration` is given)."""
    split: Split = "test"
    """The studies that are scored."""
    threshold_split: Split = "val"
    """The studies that mask thresholds are chosen on; they may share no patient with `split`."""
    findings: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """What is asked, in any known spelling.  "auto": findings that have prompts and a positive study in `split`."""
    focal: Literal["auto"] | tuple[str, ...] = "auto"
    """Findings whose pointing game enters the macro average.  "auto": those with regions, diffuse ones left out."""
    large: Literal["auto"] | tuple[str, ...] = "auto"
    """Findings whose Dice enters "macro_large".  "auto": the median region of the threshold split covers at least
    2 % of its image."""
    anatomy: Literal["auto"] | tuple[str, ...] = "auto"
    """Region names that are no findings, e.g. lungs.  "auto": those in `split` that there are anatomy prompts for."""
    prior: bool = False
    """Whether maps are compared with the mean training mask of their finding, which never looks at the image."""
    map_thresholds: dict[str, float] | None = None
    """Cosines from which a finding's map counts as its region.  None: those of `calibration`, else chosen here on
    `threshold_split`."""
    views: Literal["frontal", "mean"] = "frontal"
    """Score of a study: that of its first frontal image (none: refused and counted), or the mean over its images."""
    prompts: Prompts = "both"
    """What the diagnosis follows from: descriptors, the finding named directly, or both."""
    compared_prompts: tuple[Prompts | PublishedProtocol, ...] = ("finding",)
    """Further scores that are reported beside the main one, under their own names, each with its paired difference
    to it: other prompts of ours, or published protocols."""
    pooling: Literal["geometric_mean", "calibrated"] = "geometric_mean"
    """How descriptors become the main score; calibrated: by the weights in `calibration`."""
    paraphrases: bool = False
    """Whether every finding is also asked for in several other wordings, to see how much the wording matters."""
    calibration: Path | None = None
    """Artefact of `vlp calibrate`: the file, or its folder.  Its mask thresholds then serve the Dice, too."""
    grounding_prompts: Literal["finding", "sides"] = "finding"
    """Whose map is compared with the regions. finding: that of "There is F."; sides: the patch-wise maximum over it
    and F said of the left and of the right, for models whose training sentences nearly always name a side."""
    uncertain: LabelPolicy = "ignore"
    """What a label "uncertain" counts as.  Unmentioned findings are always left out."""
    gallery: Annotated[tuple[Split, ...], Field(min_length=1)] = ("test",)
    """Splits whose studies can be retrieved by the studies of `split`; a patient's own studies never answer."""
    voters: tuple[Split, ...] = ()
    """Splits whose studies vote for the findings of the nearest studies of `split` (with task retrieval); none: nobody
    does.  How many have a voice is chosen on `threshold_split`."""
    most_voters: PositiveInt = 6000
    """Studies of a split that are looked at for the vote, the first in key order (keys are hashes)."""
    ks: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (1, 5, 10)
    """Ranks at which precision and hits are reported."""
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

    @model_validator(mode="after")
    def _voters_come_from_elsewhere(self) -> "EvaluateConfig":
        for name, split in (("split", self.split), ("threshold_split", self.threshold_split)):
            if split in self.voters:
                raise ValueError(
                    f"voters and {name} are both {split!r}; neighbours that vote need studies of their own"
                )
        return self

    @model_validator(mode="after")
    def _calibrated_needs_a_calibration(self) -> "EvaluateConfig":
        for asked, wants in (
            ("tasks: calibration", "calibration" in self.tasks),
            ("pooling: calibrated", self.weighted),
        ):
            if wants and self.calibration is None:
                raise ValueError(f"{asked} needs `calibration`: the artefact that `vlp calibrate` writes")
        return self

    @property
    def weighted(self) -> bool:
        """Whether the main score pools by calibrated weights."""
        return self.pooling == "calibrated"

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """The tasks, with calibration where one is given."""
        added: tuple[Task, ...] = ("calibration",) if self.calibration and "calibration" not in self.tasks else ()
        return (*self.tasks, *added)

    @property
    def score_names(self) -> tuple[str, ...]:
        """The main score first, then those compared with it; where weights are calibrated it has a name of its own."""
        main = CALIBRATED if self.weighted else self.prompts
        return (main, *(name for name in dict.fromkeys(self.compared_prompts) if name != main))

    @property
    def protocols(self) -> tuple[PublishedProtocol, ...]:
        """The published protocols among the scores."""
        return tuple(name for name in get_args(PublishedProtocol) if name in self.score_names)


def words_of(name: str) -> str:
    """A score's name as people read it."""
    if name == CALIBRATED:
        return "prompts pooled by calibrated weights"
    return f"{name} protocol" if name in get_args(PublishedProtocol) else f"{name} prompts"


def suffix_of(name: str) -> str:
    """What a compared score adds to the name of a metric."""
    return f"_{words_of(name).replace(' ', '_')}"
