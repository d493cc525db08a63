"""The run's metrics in Weights & Biases, kept on this machine unless asked otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlp.config import Config
from vlp.errors import BackendError


class WandbConfig(Config):
    """Weights & Biases.  Nothing leaves the machine unless `mode` is online."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vlp"


class WandbLog:
    """Sends rows to one wandb run, or nowhere when disabled (then wandb is not even imported)."""

    def __init__(self, config: WandbConfig, *, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        self._run: Any = None
        if config.mode == "disabled":
            return
        try:
            import wandb
        except ImportError:
            raise BackendError("wandb is not installed: pip install 'vlp[train]', or set wandb.mode=disabled") from None
        # The same id on every start; offline, wandb writes one folder a start and joins them when they are synced.
        self._run = wandb.init(
            project=config.project,
            dir=folder,
            mode=config.mode,
            id=run_id,
            resume="allow" if config.mode == "online" else None,
            config=dict(settings),
            settings=wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
        )

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Sends one row of metrics; cells without a value are left out."""
        if self._run is not None:
            self._run.log({name: value for name, value in row.items() if value is not None}, step=step)

    def finish(self) -> None:
        """Closes the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None
