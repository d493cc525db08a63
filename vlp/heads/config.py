"""What a segmentation head is told."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vlp.config import Config
from vlp.heads.compare import MapPrompts
from vlp.heads.decoders import AnyDecoder, PyramidConfig
from vlp.heads.network import Conditioning
from vlp.records import Split
from vlp.train.optimizer import LrScale, OptimizerConfig, ScheduleConfig

Share = Annotated[float, Field(gt=0.0, le=1.0)]


class SegmentationHeadConfig(Config):
    """One segmentation head on one encoder.  The same configuration starts its training and continues it."""

    kind: Literal["segmentation_head"]
    output: Path
    """The run folder: config.yaml, metrics.csv, log.txt, checkpoints/, features/, head/, results.json."""
    encoder: Path
    """Checkpoint the head stands on; the head fits no other."""
    shards: Path
    """Folder of shards with regions."""
    classes: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """Names of regions: findings, or anatomy such as lungs.  auto: all that have a region in the training studies."""
    conditioning: Conditioning = "class"
    """class: one mask per class.  text: one mask for any sentence, from its vector and its similarity map."""
    decoder: AnyDecoder = PyramidConfig()
    thaw: NonNegativeInt | Literal["all"] = 0
    """So many of the image tower's last blocks learn along, with all that follows them; 0: the encoder is frozen, and
    what it makes of every image is computed once and kept in `output`/features."""
    share: Share = 1.0
    """Share of the training patients whose masks are used, e.g. 0.1; chosen by `seed`, smaller shares lie in larger
    ones."""
    boxes: bool = True
    """Whether a box counts as a mask, filled.  If not, an image with nothing but boxes of a finding says nothing of
    it."""
    views: Literal["frontal", "all"] = "frontal"
    """Images of a study that are looked at: the first frontal one, or all."""
    dice_weight: NonNegativeFloat = 1.0
    """Weight of the soft Dice beside the cross-entropy."""
    batch_images: PositiveInt = 16
    max_steps: PositiveInt = 600
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3, weight_decay=0.02, lr_scale=LrScale(image=0.05))
    """`lr_scale.image` is the share of the learning rate that what thaws has, `rest` that of the head."""
    schedule: ScheduleConfig = ScheduleConfig(warmup_steps=30)
    gradient_clip: PositiveFloat = 1.0
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints that training can be continued from."""
    map_prompts: MapPrompts = "finding"
    """Zero-shot map the head is compared with. finding: that of the class's sentence; sides: the highest of it and of
    the finding said of the left and of the right (as `grounding_prompts` of an evaluation)."""
    threshold_split: Split = "val"
    """Studies that thresholds are chosen on, those of the head and those of the zero-shot map."""
    split: Split = "test"
    """Studies that the head is compared with the zero-shot map on."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    cache_bytes: NonNegativeInt = 500_000_000
    """Memory for decoded images while training."""
    device: str = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the first weights, the order of images, dropout, the choice of patients and the resampling."""

    @model_validator(mode="after")
    def _splits_are_apart(self) -> "SegmentationHeadConfig":
        if len({"train", self.threshold_split, self.split}) < 3:
            raise ValueError(
                "training, thresholds and the comparison need studies of their own: split and threshold_split must be "
                "two of val and test"
            )
        return self
