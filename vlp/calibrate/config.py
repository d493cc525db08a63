"""What a calibration is told: which model, which studies, and how scores become probabilities."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlp.config import Config
from vlp.inference.calibration import folder_of
from vlp.inference.pooling import PoolingKind
from vlp.metrics.policy import LabelPolicy
from vlp.prompts.descriptors import Prompts
from vlp.records import Split

OWN = "vlp"
"""The name of this project's own way of asking, see `vlp.prompts.protocols`."""
Method = Literal["temperature", "platt", "isotonic", "auto"]


class CalibrateConfig(Config):
    """One calibration of one checkpoint on the studies of one split."""

    checkpoint: Path
    """Folder of the model."""
    shards: Path
    """Folder of the shards."""
    output: Path | None = None
    """Where calibration.json and gate.json go.  None: beside the checkpoint, where other verbs look for them."""
    split: Split = "val"
    """The studies to learn from: never those the model was trained on, never those it will be tested on."""
    findings: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """In any known spelling.  "auto": findings that have prompts and a positive study in `split`."""
    descriptors: Path | None = None
    """A descriptor file instead of the package's own."""
    protocol: str = OWN
    """How the model is asked; a published protocol brings its own sentences and pooling."""
    prompts: Prompts = "both"
    """What a score follows from: descriptors, the finding named directly, or both."""
    pooling: PoolingKind = "geometric_mean"
    """How descriptors become a score: all alike, or by weights learned on `split`."""
    views: Literal["frontal", "mean"] = "frontal"
    """Score of a study: that of its first frontal image (none: left out), or the mean over its images."""
    grounding_prompts: Literal["finding", "sides"] = "finding"
    """Whose map a threshold is chosen for: that of "There is F.", or the highest of it and F on either side."""
    method: Method = "auto"
    """From score to probability.  temperature: one number for all findings; platt: two per finding; isotonic: any
    rising curve, where there are enough studies, else platt; auto: as isotonic."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Share of the studies with (and of those without) a finding whose conformal set may miss that."""
    uncertain: LabelPolicy = "ignore"
    """What a label "uncertain" counts as.  Unmentioned findings are always left out."""
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    """Parts of the patients, for everything that is cross-validated."""
    gate: bool = True
    """Whether to learn what to refuse, too."""
    gate_views: Literal["frontal", "any"] = "frontal"
    """Whether lateral views are refused."""
    seed: int = 0
    """Of the partition of patients, and of what the gate draws."""
    batch_images: Annotated[int, Field(ge=1)] = 32
    device: str = "auto"

    @model_validator(mode="after")
    def _published_protocols_pool_by_themselves(self) -> "CalibrateConfig":
        if self.protocol != OWN and (self.pooling != "geometric_mean" or self.prompts != "both"):
            raise ValueError(f"protocol {self.protocol!r} has prompts and pooling of its own; leave out both keys")
        return self

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output if self.output is not None else folder_of(self.checkpoint)
