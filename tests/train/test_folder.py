import logging
from pathlib import Path

import pytest

from vlp import log
from vlp.train import folder
from vlp.train.folder import RunFolder, logging_to, write_text


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "config.yaml"
    write_text(target, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_text(target, "new")
    assert target.read_text() == "old"


def test_only_the_process_that_leads_keeps_a_log(tmp_path: Path) -> None:
    logger = log.get_logger("vlp.train.test")
    handlers = list(logging.getLogger("vlp").handlers)
    with logging_to(tmp_path / "log.txt", leads=False):
        logger.info("not written")
    assert not (tmp_path / "log.txt").exists()
    with logging_to(tmp_path / "log.txt", leads=True):
        logger.info("written")
    logger.info("afterwards")
    assert (tmp_path / "log.txt").read_text().endswith("I written\n")
    assert logging.getLogger("vlp").handlers == handlers


def test_everything_lies_in_the_run_folder() -> None:
    run = RunFolder(Path("run"))
    paths = [run.config, run.metrics, run.samples, run.skipped, run.checkpoints, run.final]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to("run") for path in paths)
