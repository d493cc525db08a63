"""Stopping and going on: when a run may be continued, and from where.

Nothing of a run is random beyond its seed: the order of studies, augmentation, the learning rate and the numbers
dropout draws are functions of (seed, step), so weights, their average, optimizer, gradient scaler and position are the
whole state.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp import log
from vlp.config import Config, read_values
from vlp.errors import CheckpointError, ConfigError
from vlp.train.saving.state import Progress, TrainingState, read_state
from vlp.train.saving.store import CheckpointStore

FREE_KEYS = ("output", "shards", "remote", "max_minutes", "checkpoint_every", "retain", "wandb", "tensorboard",
             "watchdog", "loader.workers", "loader.prefetch", "loader.cache_bytes", "loader.corrupt_budget",
             "accelerator", "threads", "devices", "nodes", "strategy", "activation_checkpointing",
             "feature_cache.folder")  # fmt: skip
"""Keys that may differ when a run is continued: they change no number of it, or say on what it runs.  Shards are
compared by content."""
_BATCH = "loader.batch_studies"

_logger = log.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a run goes on from."""

    checkpoint: Path
    state: TrainingState

    @property
    def progress(self) -> Progress:
        """How far the run is; counted on by whoever continues it."""
        return self.state.progress


def find_start(store: CheckpointStore, *, where: Path) -> Start | None:
    """The newest whole checkpoint; None where nothing was ever saved.

    Raises:
        CheckpointError: if there is something, and nothing of it can be used: starting anew would overwrite a run.
    """
    newest = store.newest()
    if newest is not None:
        return Start(checkpoint=newest, state=read_state(newest))
    if (where / "last").is_dir():
        raise CheckpointError(f"{where}: a run of an earlier version of this program; finish it with that one")
    if store.has_any():
        raise CheckpointError(f"{where}: no whole checkpoint is left here; remove the run folder to start anew")
    return None


def refuse_other(recorded: Path, config: Config, *, worlds: tuple[int, int] = (1, 1)) -> None:
    """Makes sure that the run recorded in a `config.yaml` is the one `config` describes.

    With another number of processes the studies per process may change too, if the whole batch stays as large.

    Args:
        recorded: The file.
        config: What is to be run now.
        worlds: How many processes the run had, and has now.

    Raises:
        ConfigError: naming every key that differs.
    """
    before, now = _flat(read_values(recorded)), _flat(config.model_dump(mode="json"))
    differing = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key) and not _is_free(key)]
    if _BATCH in differing and worlds[0] * before[_BATCH] == worlds[1] * now[_BATCH]:
        differing.remove(_BATCH)
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
