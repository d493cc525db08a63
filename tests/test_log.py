import logging

import pytest

from vlp import log


def test_progress_yields_everything_in_order() -> None:
    assert list(log.progress(range(5), description="counting")) == [0, 1, 2, 3, 4]


def test_progress_works_without_a_length() -> None:
    assert list(log.progress((n for n in "ab"), description="letters")) == ["a", "b"]


def test_long_work_ends_with_its_rate(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(log.time, "monotonic", lambda: float(next(clock)))
    logging.getLogger("vlp").propagate = True
    with caplog.at_level(logging.INFO, logger="vlp.progress"):
        list(log.progress([1, 2], description="reading", unit="studies"))
    assert "studies/s" in caplog.text
    assert "2 studies" in caplog.text


def test_other_ranks_are_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    logger = log.get_logger("vlp.test")
    logging.getLogger("vlp").propagate = True
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, logger="vlp.test"):
        logger.info("hello")
        logger.warning("careful")
    assert "hello" not in caplog.text
    assert "careful" in caplog.text
