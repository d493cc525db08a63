"""Everything that decides a training run, in one object."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from vlp.config import Config
from vlp.data.files import RemoteConfig
from vlp.data.joint import ArchiveShare
from vlp.data.loader import LoaderConfig
from vlp.model.model import ModelConfig
from vlp.objectives import AnyObjective
from vlp.objectives.positives import PositivesConfig, TextWeights
from vlp.train.guard import GuardConfig
from vlp.train.optimizer import OptimizerConfig, ScheduleConfig
from vlp.train.saving.store import RetainConfig
from vlp.train.scale.averaging import AveragingConfig
from vlp.train.scale.compiling import ChannelsLast
from vlp.train.scale.features import FeatureCacheConfig
from vlp.train.scale.resolution import ResolutionStages
from vlp.train.scale.sharding import StrategyName
from vlp.train.terms import HardNegativesConfig, TermConfig
from vlp.train.validate import ZeroShotConfig
from vlp.train.watching.wandb_log import WandbConfig
from vlp.train.watching.watchdog import WatchdogConfig


class TrainConfig(Config):
    """One pretraining run.  The same configuration starts it and continues it."""

    output: Path
    """The run folder: config.yaml, metrics.csv, log.txt, checkpoints/."""
    shards: str | tuple[ArchiveShare, ...]
    """A folder of shards with its manifest.json, or its URL; or several, each with how often an epoch sees it."""
    remote: RemoteConfig = RemoteConfig()
    """Where shards behind a URL are kept meanwhile (patients' images are among them), and how often a read is tried."""
    model: ModelConfig
    objective: AnyObjective
    """On the scorer's logits, with weight 1."""
    terms: tuple[TermConfig, ...] = ()
    """Further terms of the loss."""
    positives: PositivesConfig = PositivesConfig()
    """Which texts count as true of another study's images, and which pairs are left out of the loss."""
    hard_negatives: HardNegativesConfig = HardNegativesConfig()
    """How flipped sentences count; there are some where `loader.flips` is set."""
    loader: LoaderConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    gradient_clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    max_steps: PositiveInt
    """Length of the run and of its schedule, in steps."""
    max_minutes: PositiveFloat | None = None
    """Ends the run at the first step boundary after so much time, checks included, over all starts.  The schedule
    still counts to `max_steps`, so a run that ends this way ends before its learning rate has come down."""
    averaging: AveragingConfig | None = None
    """An exponential moving average of the weights, which then is what checks look at and checkpoints/final holds."""
    resolution: ResolutionStages = ()
    """Smaller images for the first parts of the run; the rest sees `model.preprocess.size`."""
    feature_cache: FeatureCacheConfig | None = None
    """What a frozen image tower says of every image, computed once and kept on disk: later epochs cost what the rest
    of the model costs.  Needs `loader.augment: null`."""
    text_weights: TextWeights = "occurrence"
    """What a sentence counts in the objective. occurrence: every study's every sentence once, as published; distinct:
    every distinct sentence of a batch once, however many studies hold it, so that the few stock phrases of normal
    reports do not outweigh the rare sentences that say something; study: every study once, however many sentences it
    has."""
    micro_batch: PositiveInt | None = None
    """Images a tower sees at a time, for devices that a batch does not fit: activations of so many images are kept,
    and what is dropped is computed anew for the gradient (about a third more time).  Negatives and gradient stay those
    of the whole batch.  null: all at once.  Towers with batch statistics take those of so many images."""
    precision: Literal["auto", "32", "bf16-mixed", "16-mixed"] = "32"
    """Of the towers' arithmetic; weights and losses are float32 always.  auto: bf16-mixed where the device multiplies
    bfloat16 in hardware (recent GPUs; CPUs with AVX512-BF16 or AMX), else 32; the log says which."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = 1
    """Processes on each node, one for each GPU (or several on a CPU).  Each takes `loader.batch_studies` studies a
    step; the loss and its gradient are those of all of them as one batch.  This program starts them by itself; under
    torchrun, say as many as it started; on Slurm, slurm/train.sbatch says it."""
    nodes: PositiveInt = 1
    """Machines; the run folder and the shards must be the same on all.  Start the same command on each, with
    torchrun, or with NODE_RANK, MASTER_ADDR and MASTER_PORT set; or submit slurm/train.sbatch."""
    strategy: StrategyName = "ddp"
    """How several processes hold the model: each all of it (ddp), or each a share of weights and optimizer (fsdp, for
    towers that do not fit on one device).  Loss and gradient are the same."""
    threads: Literal["auto"] | PositiveInt = "auto"
    """Threads of each process for its own arithmetic.  auto: the cores of the machine, divided among the processes."""
    compile: bool = False
    """Compile the towers (torch.compile): minutes at the start, faster steps on GPUs."""
    channels_last: ChannelsLast = "auto"
    """Memory layout of the image tower's convolutions; auto: channels last where every block has a convolution."""
    activation_checkpointing: bool = False
    """Keep only what enters each block of the towers, and compute the rest anew for the gradient: large towers on
    small devices, for about a third more time."""
    deterministic: bool = False
    """Ask torch for deterministic kernels where it has them; some GPU kernels get slower."""
    guard: GuardConfig = GuardConfig()
    """What happens when a loss or a gradient is not a finite number."""
    watchdog: WatchdogConfig = WatchdogConfig()
    """Who is told when nothing moves."""
    checkpoint_every: PositiveInt = 200
    """Steps between checkpoints that the run can be continued from; there is always one at the end."""
    retain: RetainConfig = RetainConfig()
    """Which of them stay."""
    keep: Literal["last", "best"] = "last"
    """Which weights checkpoints/final holds: the last, or those with the best zero-shot check."""
    zero_shot: ZeroShotConfig = ZeroShotConfig()
    wandb: WandbConfig = WandbConfig()
    tensorboard: bool = False
    """Write curves for TensorBoard to the run folder."""
    record_samples: bool = False
    """Write samples.parquet: the keys that each step saw."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the first weights and of dropout; `loader.seed` decides order, choices and augmentation."""

    @property
    def keeps_best(self) -> bool:
        """Whether the step with the best zero-shot check is saved."""
        return self.keep == "best" or self.retain.best > 0
