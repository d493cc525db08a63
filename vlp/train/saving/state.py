"""What a checkpoint holds beside the weights, so that the next step is the one that would have come anyway.

    training_state.pt        position, optimizer, gradient scaler, digests of the shards, versions, configuration
    averaged.safetensors     moving averages of the weights, where the run keeps some

Nothing of a run is random beyond its seed: the order of studies, augmentation, the learning rate and the numbers
dropout draws are functions of (seed, step), so no generator is saved.
"""

import errno
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlp.errors import CheckpointError

STATE_NAME = "training_state.pt"
AVERAGED_NAME = "averaged.safetensors"
SCHEMA = 2
"""Counts layouts of training_state.pt; another one is refused."""
_PACKAGES = ("vlp", "torch", "pytorch-lightning", "numpy", "timm", "transformers", "albumentations", "simplejpeg")
"""Those whose arithmetic, or way of drawing, is in a run's numbers."""
_PLAIN = (bool, int, float, str)
_FULL_BELOW = 4096
"""Free bytes of a disk that is full: the last block may not have been worth taking."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is.  `epoch` and `position` name the next batch: the one after the last *trained* one."""

    step: int = 0
    """Steps trained."""
    epoch: int = 0
    position: int = 0
    """Batches of `epoch` that are trained, by as many processes as there are now."""
    consumed: int = 0
    """Studies of `epoch` that were trained before, by another number of processes."""
    world: int = 1
    """Processes that `position` counts batches of."""
    seconds: float = 0.0
    """Time spent training, over all starts."""
    best: float | None = None
    """Best zero-shot check so far."""
    best_step: int = 0
    skipped: int = 0
    """Steps whose update was left out because a number in it was not finite."""
    rollbacks: int = 0
    """How often the run went back to an earlier checkpoint."""
    replaced: int = 0
    """Studies that could not be read and had another one in their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """What `write_state` wrote, on the CPU."""

    progress: Progress
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    """Of the gradient; {} where there is none."""
    shards: dict[str, str]
    """Digest of each archive's manifest."""
    versions: dict[str, str]
    """Of what the run was trained with, see `versions`."""
    config: dict[str, Any]
    """The resolved configuration."""


def write_state(
    folder: Path,
    *,
    progress: Progress,
    optimizer_state: Mapping[str, Any],
    scaler: Mapping[str, Any],
    shards: Mapping[str, str],
    versions: Mapping[str, str],
    config: Mapping[str, Any],
) -> None:
    """Writes training_state.pt into a checkpoint folder.

    Nothing is copied before it is written: a thread gets a `snapshot`.

    Raises:
        CheckpointError: if it cannot be written, perhaps because the disk is full.
    """
    parts = (asdict(progress), optimizer_state, scaler, shards, versions, config)
    state: dict[str, Any] = {"schema": SCHEMA} | {
        field.name: dict(part) for field, part in zip(fields(TrainingState), parts, strict=True)
    }
    strange = sorted(set(_strange(state)))
    assert not strange, f"would be refused when it is read: {strange}"
    file = folder / STATE_NAME
    with _writing(file), file.open("wb") as stream:
        # To a stream: a file that torch opens itself stays open for as long as torch's error lives, and a deleted
        # file that is open keeps its room on a full disk.
        torch.save(state, stream)


def read_state(folder: Path) -> TrainingState:
    """What `write_state` wrote.  Nothing in the file can run code.

    Raises:
        CheckpointError: one line, if the file is missing, damaged, or of another version of this program.
    """
    file = folder / STATE_NAME
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a damaged file
        raise CheckpointError(
            f"{file}: missing or damaged; remove this checkpoint to continue an earlier one"
        ) from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise _other_version(file)
    known = {field.name for field in fields(Progress)}
    parts = {field.name: state.get(field.name) for field in fields(TrainingState)}
    progress = parts.pop("progress")
    if not isinstance(progress, dict) or set(progress) != known:
        raise _other_version(file)
    if not all(isinstance(part, dict) for part in parts.values()):
        raise _other_version(file)
    return TrainingState(progress=Progress(**progress), **parts)  # type: ignore[arg-type]


def write_averaged(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes averages of weights into a checkpoint folder, named as the weights are.

    Raises:
        CheckpointError: if they cannot be written, perhaps because the disk is full.
    """
    file = folder / AVERAGED_NAME
    whole = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with _writing(file):
        file.touch()
        mode = file.stat().st_mode
        save_file(whole, file)
        file.chmod(mode)  # not for the owner alone


def read_averaged(folder: Path) -> dict[str, Tensor] | None:
    """What `write_averaged` wrote, on the CPU; None where it wrote nothing.

    Raises:
        CheckpointError: if the file is damaged.
    """
    file = folder / AVERAGED_NAME
    if not file.exists():
        return None
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError):
        raise CheckpointError(f"{file}: damaged; remove this checkpoint to continue an earlier one") from None


def snapshot(value: Any) -> Any:
    """A copy of nested mappings, sequences, tensors and a `Progress` that shares nothing with the training going on.

    It is on the CPU; tensors of a GPU are copied to page-locked memory, all at once, and are there when this returns.
    Numbers and texts of other types (a library's own float or enumeration) become plain ones.
    """
    devices: set[torch.device] = set()
    copied = _copied(value, devices)
    for device in devices:
        torch.cuda.synchronize(device)
    return copied


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on: Python, packages, and the GPU's library and name."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # not every run needs every one
            continue
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["gpu"] = torch.cuda.get_device_name()
    return found


def describe_versions(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between two answers of `versions`, in one line; "" if nothing does."""
    return "; ".join(
        f"{name} {before.get(name, '(none)')} before, {now.get(name, '(none)')} now"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )


def _copied(value: Any, devices: set[torch.device]) -> Any:
    if isinstance(value, Tensor):
        return _copied_tensor(value.detach(), devices)
    if isinstance(value, Progress):
        return replace(value)
    if isinstance(value, Mapping):
        return {_copied(key, devices): _copied(part, devices) for key, part in value.items()}
    if isinstance(value, list | tuple):
        parts = [_copied(part, devices) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    if value is None:
        return None
    for plain in _PLAIN:
        if isinstance(value, plain):
            return plain(value)
    raise AssertionError(f"a checkpoint cannot hold a {type(value).__name__}")


def _copied_tensor(value: Tensor, devices: set[torch.device]) -> Tensor:
    if value.device.type != "cuda":
        return value.cpu() if value.device.type != "cpu" else value.clone()
    devices.add(value.device)
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


def _strange(value: Any) -> Iterator[str]:
    """Names of the types in `value` that a safe reader would refuse."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _strange(key)
            yield from _strange(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strange(part)
    elif value is not None and type(value) not in (*_PLAIN, Tensor):
        yield type(value).__name__


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Turns what writers raise into one plain line; torch's own says where in its source it was."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be written: {error.strerror or error}") from None
    except (RuntimeError, SafetensorError) as error:
        full = shutil.disk_usage(file.parent).free < _FULL_BELOW
        reason = os.strerror(errno.ENOSPC) if full else str(error).splitlines()[0]
        raise CheckpointError(f"{file}: cannot be written: {reason}") from None


def _other_version(file: Path) -> CheckpointError:
    return CheckpointError(f"{file}: written by another version of this program; finish the run with that one")
