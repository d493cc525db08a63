"""The run's metrics in Weights & Biases, kept on this machine unless asked otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from vlp import log
from vlp.config import Config
from vlp.errors import BackendError

_logger = log.get_logger(__name__)


class WandbConfig(Config):
    """Weights & Biases.  Nothing leaves the machine unless `mode` is online."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vlp"


class WandbLog:
    """Sends rows to one wandb run, or nowhere when disabled (then wandb is not even imported).

    Raises:
        BackendError: if wandb is not installed.  A server that is not there is a warning: training goes on without.
    """

    name = "wandb"

    def __init__(self, config: WandbConfig, *, folder: Path, settings: Mapping[str, Any], run_id: str) -> None:
        self._run: Any = None
        if config.mode == "disabled":
            return
        try:
            import wandb
        except ImportError:
            raise BackendError("wandb is not installed: pip install 'vlp[train]', or set wandb.mode=disabled") from None
        try:
            self._run = self._open(wandb, config, folder=folder, settings=settings, run_id=run_id)
        except Exception as error:  # no network, no key, no room: many kinds
            reason = next(iter(str(error).splitlines()), "")
            _logger.warning("wandb cannot be started (%s: %s); training goes on without", type(error).__name__, reason)

    def _open(self, wandb: Any, config: WandbConfig, *, folder: Path, settings: Mapping[str, Any], run_id: str) -> Any:
        # The same id on every start; offline, wandb writes one folder a start and joins them when they are synced.
        return wandb.init(
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
