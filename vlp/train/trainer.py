"""How Lightning is asked to train: devices, precision, and nothing that this run does by itself."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import Strategy
from timm.layers import convert_sync_batchnorm

from vlp import log
from vlp.data.loader import default_workers
from vlp.errors import BackendError, ConfigError
from vlp.model.model import VisionLanguageModel
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place
from vlp.train.scale.allocation import freed_memory_kept
from vlp.train.scale.compiling import compile_towers, lay_out
from vlp.train.scale.sharding import make_strategy

_NAMED = 3
"""Idle parameters that are named in the log."""
_logger = log.get_logger(__name__)


def make_trainer(config: TrainConfig, module: PretrainingModule, *, place: Place) -> pl.Trainer:
    """The trainer of one start of a run; `StepBoundary` ends it."""
    precision = choose_precision(config)
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config, module, place, precision),
        precision=precision,
        deterministic="warn" if config.deterministic else None,
        max_steps=-1,
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=config.output,
        plugins=[place.environment()],
    )


def choose_precision(config: TrainConfig) -> Literal["32", "bf16-mixed", "16-mixed"]:
    """The precision to run with; announces its choice where it is left to it."""
    if config.precision != "auto":
        return config.precision
    if uses_gpu(config):
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    chosen: Literal["32", "bf16-mixed"] = "bf16-mixed" if fast else "32"
    _logger.info("precision=auto: %s", chosen)
    return chosen


def uses_gpu(config: TrainConfig) -> bool:
    """Whether this run trains on GPUs."""
    return torch.cuda.is_available() and config.accelerator != "cpu"


def refuse_what_cannot_run(config: TrainConfig) -> None:
    """Makes sure that what is asked for is there.

    Raises:
        BackendError: for GPUs that are not there.
        ConfigError: for a precision that only GPUs have, or parts that exclude each other.
    """
    gpu = uses_gpu(config)
    if config.accelerator == "gpu" and not gpu:
        raise BackendError("accelerator=gpu: torch sees no GPU here; use accelerator=auto or install a CUDA build")
    if gpu and config.devices > torch.cuda.device_count():
        raise BackendError(f"devices={config.devices}: torch sees {torch.cuda.device_count()} GPUs here; use fewer")
    if config.feature_cache is not None and config.resolution:
        raise ConfigError("feature_cache: remembered features are of one size; leave resolution out")
    if config.precision == "16-mixed" and not gpu:
        raise ConfigError("precision=16-mixed needs a GPU; on a CPU use bf16-mixed or 32")


def share_batch_statistics(model: VisionLanguageModel, config: TrainConfig, *, place: Place) -> None:
    """Makes batch normalisation take its statistics over all processes, where it can: between GPUs.

    Weights, their names and what an evaluated model says are as before.
    """
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    if place.world == 1 or not any(part.training for part in norms):
        return
    if uses_gpu(config):
        # timm's own: torch's would drop the activation that timm keeps inside some of its norms.
        convert_sync_batchnorm(model)
    else:
        _logger.info("batch normalisation: each process takes the statistics of its own images (GPUs would share them)")


def prepare_model(model: VisionLanguageModel, config: TrainConfig) -> None:
    """What a run does to its model before it is trained, and what no checkpoint knows of.

    Raises:
        ConfigError: if a tower has no blocks that activation checkpointing could keep apart.
        BackendError: if there is no compiler.
    """
    if config.activation_checkpointing:
        for part in (model.image_tower, model.text_tower, model.align):
            part.set_checkpointing(True)
    lay_out(model, channels_last=config.channels_last)
    if config.compile:
        compile_towers(model)


def num_workers(config: TrainConfig) -> int:
    """Processes that decode ahead of each process that trains, on this node."""
    if config.loader.workers != "auto":
        return config.loader.workers
    return default_workers(processes=config.devices, on_gpu=uses_gpu(config))


@contextmanager
def threads(config: TrainConfig) -> Iterator[None]:
    """Gives this process its share of the machine's cores inside the block, for its own arithmetic.

    Where the cores are what trains, memory that a step frees is kept for the next one.  Threads that wait for a core
    spin, and take it from the workers that decode: more threads than cores is slower than fewer.  What
    OMP_NUM_THREADS says is left alone.
    """
    before = torch.get_num_threads()
    if config.threads != "auto":
        torch.set_num_threads(config.threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.devices))
    try:
        with nullcontext() if uses_gpu(config) else freed_memory_kept():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps Lightning's hints off the screen: they advise about things this run does by itself."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strategy(config: TrainConfig, module: PretrainingModule, place: Place, precision: str) -> Strategy | str:
    """One process a device; what has no part in any score is told, for it gets no gradient."""
    if place.world == 1:
        return "auto"
    idle = module.idle_parameters()
    if idle:
        _logger.info("%d parameters have no part in any score, e.g. %s", len(idle), ", ".join(idle[:_NAMED]))
    return make_strategy(config.strategy, world=place.world, idle=idle, precision=precision)
