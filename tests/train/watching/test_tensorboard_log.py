import sys
from pathlib import Path

import pytest

from vlp.errors import BackendError
from vlp.train.watching.logbook import Logbook, MetricsFile, SamplesFile
from vlp.train.watching.tensorboard_log import TensorboardLog


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_numbers_of_a_row(tmp_path: Path) -> None:
    log = TensorboardLog(tmp_path / "tensorboard")
    log.log({"step": 3, "loss": 0.5, "epoch": 0, "zero_shot_auroc": None, "note": "text"}, step=3)
    log.log({"step": 4, "loss": 0.25, "epoch": 1, "zero_shot_auroc": 0.75}, step=4)
    assert scalars(tmp_path / "tensorboard")["loss"] == [(3, 0.5), (4, 0.25)]  # before it is closed
    log.finish()
    assert scalars(tmp_path / "tensorboard") == {
        "loss": [(3, 0.5), (4, 0.25)],
        "epoch": [(3, 0.0), (4, 1.0)],
        "zero_shot_auroc": [(4, 0.75)],
    }


def test_a_continued_run_reads_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    first = TensorboardLog(tmp_path)
    for step in (1, 2, 3):
        first.log({"loss": float(step)}, step=step)
    first.finish()
    second = TensorboardLog(tmp_path, after_step=2)
    second.log({"loss": 30.0}, step=3)
    second.finish()
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_a_warning_of_the_logbook(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = TensorboardLog(tmp_path / "tensorboard")
    log._file.close()
    log._file = open("/dev/full", "wb")  # noqa: SIM115
    log._records = type(log._records)(log._file)
    metrics = MetricsFile(tmp_path / "metrics.csv", ("step", "epoch", "loss"))
    logbook = Logbook(metrics=metrics, samples=SamplesFile(None), sinks=[log])
    for step in range(1, 6):
        logbook.append({"loss": 0.5}, step=step, epoch=0, keys=())
        logbook.flush()
    logbook.finish()
    (message,) = caplog.messages
    assert message.startswith("TensorBoard fails (OSError")
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 6


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    with pytest.raises(BackendError, match=r"vlp\[tensorboard\]"):
        TensorboardLog(tmp_path)
