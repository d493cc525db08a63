"""Stopping and going on: what is saved beside the weights, and when a run may be continued.

Nothing of a run is random beyond its seed: the order of studies, augmentation, the learning rate and the numbers
dropout draws are functions of (seed, step), so weights, optimizer, gradient scaler and position are the whole state.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from vlp.config import Config, read_values
from vlp.errors import CheckpointError, ConfigError
from vlp.model import checkpoint

STATE_NAME = "training_state.pt"
_SCHEMA = 1
FREE_KEYS = ("output", "shards", "max_minutes", "checkpoint_every", "wandb", "loader.workers", "loader.prefetch",
             "loader.cache_bytes", "accelerator")  # fmt: skip
"""Keys that may differ when a run is continued: they change no number of it.  Shards are compared by content."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is.  `epoch` and `position` name the next batch: the one after the last *trained* one."""

    step: int = 0
    """Steps trained."""
    epoch: int = 0
    position: int = 0
    """Batches of `epoch` that are trained."""
    seconds: float = 0.0
    """Time spent training, over all starts."""
    best: float | None = None
    """Best zero-shot check so far."""
    best_step: int = 0


def save_state(
    folder: Path, *, progress: Progress, optimizer: torch.optim.Optimizer, scaler: dict[str, Any], shards: str
) -> None:
    """Writes what a checkpoint folder needs to be continued from."""
    state = {
        "schema": _SCHEMA,
        "progress": asdict(progress),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler,
        "shards": shards,
    }
    try:
        torch.save(state, folder / STATE_NAME)
    except RuntimeError as error:  # what torch's writer makes of a full disk
        raise CheckpointError(f"{folder / STATE_NAME}: cannot be written: {str(error).splitlines()[0]}") from None


def load_state(folder: Path) -> dict[str, Any]:
    """What `save_state` wrote, on the CPU; `progress` as `Progress`.

    Raises:
        CheckpointError: if the file is missing, damaged or of another version.
    """
    file = folder / STATE_NAME
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a damaged file
        raise CheckpointError(f"{file}: missing or damaged; remove the run folder to start anew") from None
    known = {field.name for field in fields(Progress)}
    if not isinstance(state, dict) or state.get("schema") != _SCHEMA or set(state.get("progress", ())) != known:
        raise CheckpointError(f"{file}: written by another version of this program; finish the run with that one")
    return state | {"progress": Progress(**state["progress"])}


def latest(target: Path) -> Path | None:
    """`target`, or the older folder that a kill between two renames left beside it, or None where nothing was saved.

    A folder that lost its state is returned too: `load_state` refuses it, where starting anew would overwrite a run.
    """
    found = checkpoint.latest(target, holding=STATE_NAME)
    return found or (target if target.is_dir() and any(target.iterdir()) else None)


def refuse_other(recorded: Path, config: Config) -> None:
    """Makes sure that the run recorded in a `config.yaml` is the one `config` describes.

    Raises:
        ConfigError: naming every key that differs.
    """
    before, now = _flat(read_values(recorded)), _flat(config.model_dump(mode="json"))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and not _is_free(key)]
    if differing:
        lines = [f"  {key}: {before.get(key, '(none)')} there, {now.get(key, '(none)')} now" for key in differing]
        where = recorded.parent
        raise ConfigError(
            "\n".join([f"{where}: holds a run with another configuration; name another output or remove it:", *lines])
        )


def _is_free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {prefix: value}
    return {key: leaf for name, part in items for key, leaf in _flat(part, f"{prefix}.{name}".lstrip(".")).items()}
