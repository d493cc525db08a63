import logging

import pytest
import torch

from vlp.train.watching import display
from vlp.train.watching.display import Display


class Unread:
    """A loss that must not be read yet: reading makes a device wait."""

    def __float__(self) -> float:
        raise AssertionError("read too early")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_a_line_every_fifteen_seconds_with_rate_and_time_left(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="vlp"), Display(first=10, total=110) as shown:
        clock[0] += 10.0
        shown.show(step=20, images=320, loss=Unread(), check=None)
        assert not caplog.messages
        clock[0] += 10.0
        shown.show(step=30, images=320, loss=torch.tensor(0.5), check=0.75)
        clock[0] += 20.0
        shown.show(step=70, images=2560, loss=torch.tensor(0.25), check=0.75)
    assert caplog.messages == [
        "step 30/110: loss 0.500, 32 images/s, zero-shot AUROC 0.750, 1:20 left",
        "step 70/110: loss 0.250, 128 images/s, zero-shot AUROC 0.750, 0:20 left",
    ]


def test_waiting_for_data_is_told_where_it_is_much(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vlp"), Display(first=0, total=50_000) as shown:
        for step, wait in ((1, 0.0), (2, 0.3), (3, 0.04), (4, 0.05)):
            clock[0] += 10.0
            shown.show(step=step, images=10, loss=1.0, check=None, data_wait=wait, memory_gb=12.34)
    first, second = (message.split(" images/s")[1] for message in caplog.messages)
    assert first == ", waiting for data 15%, 12.3 GB, 138:53:00 left"  # the mean since the last line
    assert second == ", 12.3 GB, 138:52:40 left"


def test_the_last_step_is_always_shown(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="vlp"), Display(first=0, total=2) as shown:
        clock[0] += 1.0
        shown.show(step=1, images=4, loss=Unread(), check=None)
        clock[0] += 1.0
        shown.show(step=2, images=4, loss=1.0, check=None)
    assert caplog.messages == ["step 2/2: loss 1.000, 4 images/s, 0:00 left"]


def test_other_ranks_are_silent(
    clock: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with caplog.at_level(logging.INFO, logger="vlp"), Display(first=0, total=1) as shown:
        shown.show(step=1, images=4, loss=1.0, check=None)
    assert not caplog.messages


def test_a_terminal_gets_a_bar(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display.sys.stderr, "isatty", lambda: True, raising=False)
    with Display(first=0, total=2) as shown:
        clock[0] += 1.0
        shown.show(step=2, images=4, loss=1.0, check=None)
    assert "2/2" in capsys.readouterr().err
