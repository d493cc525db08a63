import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlp.errors import BackendError
from vlp.train.watching.wandb_log import WandbConfig, WandbLog


class Wandb(SimpleNamespace):
    """Stands for the module: notes what it is told."""

    def __init__(self) -> None:
        super().__init__(opened=[], logged=[], finished=0)

    def Settings(self, **settings: Any) -> Any:
        return settings

    def init(self, **options: Any) -> Any:
        self.opened.append(options)
        return SimpleNamespace(
            log=lambda row, step: self.logged.append((step, row)),
            finish=lambda: setattr(self, "finished", self.finished + 1),
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    return module


def open_log(mode: Any, folder: Path) -> WandbLog:
    return WandbLog(WandbConfig(mode=mode), folder=folder, settings={"seed": 1}, run_id="abc")


def test_offline_is_the_default_and_reaches_wandb(wandb: Wandb, tmp_path: Path) -> None:
    assert WandbConfig().mode == "offline"
    log = open_log("offline", tmp_path)
    log.log({"loss": 0.5, "zero_shot_auroc": None}, step=3)
    log.finish()
    log.finish()
    assert wandb.opened[0]["mode"] == "offline"
    assert wandb.opened[0]["id"] == "abc"
    assert wandb.opened[0]["config"] == {"seed": 1}
    assert wandb.logged == [(3, {"loss": 0.5})]
    assert wandb.finished == 1


def test_disabled_does_not_even_import_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    log = open_log("disabled", tmp_path)
    log.log({"loss": 0.5}, step=1)
    log.finish()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(BackendError, match=r"wandb\.mode=disabled"):
        open_log("offline", tmp_path)


def test_a_server_that_is_away_is_a_warning(
    wandb: Wandb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(**options: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(wandb, "init", away)
    log = open_log("online", tmp_path)
    log.log({"loss": 0.5}, step=1)
    log.finish()
    assert caplog.messages == ["wandb cannot be started (ConnectionError: no route); training goes on without"]
