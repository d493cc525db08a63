import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.tensors import Batch, Statements, Tokens
from vlp.train.boundary import StepBoundary, reason_to_finish
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.processes import Processes
from vlp.train.resume import Progress
from vlp.train.signals import StopFlag

Event = tuple[str, Any]


class Recorder:
    """Stands for logbook and display, and notes what was asked for in which order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, row: Any, *, step: int, epoch: int, keys: Any) -> None:
        self.events.append(("row", (step, epoch, row["zero_shot_auroc"])))

    def flush(self) -> None:
        self.events.append(("flush", None))

    def flush_samples(self) -> None:
        self.events.append(("flush samples", None))

    def show(self, **facts: Any) -> None:
        self.events.append(("show", facts["step"]))

    def save(self, progress: Progress) -> None:
        self.events.append(("save", (progress.step, progress.epoch, progress.position)))

    def save_best(self) -> None:
        self.events.append(("best", None))


class Check:
    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def run(self, model: Any, *, device: Any) -> dict[str, float]:
        value = self.values.pop(0)
        return {"one": value - 0.1, "other": value + 0.1}


def batch_at(position: int) -> Batch:
    empty = torch.zeros(1, dtype=torch.int64)
    tokens = Tokens(ids=empty[:, None], mask=empty[:, None].bool())
    codes = Statements(identity=empty, finding=empty, location=empty, certainty=empty)
    images = torch.zeros(1, 1, 2, 2)
    return Batch(
        images=images,
        padding=None,
        tokens=tokens,
        sentence=empty,
        owner=empty,
        flipped=empty.bool(),
        study=empty,
        said=codes,
        known=codes,
        known_study=empty,
        keys=("a",),
        position=position,
    )


class Siblings(Processes):
    """Other processes that see what this one does not: a signal at a step, a slower clock."""

    def __init__(self, *, signal_at: int = 0, seconds: float = 0.0) -> None:
        super().__init__()
        self.signal_at, self.seconds, self.asked, self.waited = signal_at, seconds, 0, 0

    def largest(self, *numbers: float) -> list[float]:
        self.asked += 1
        signalled = int(signal.SIGUSR1) if self.asked == self.signal_at else 0
        return [max(numbers[0], signalled), max(numbers[1], self.seconds)]

    def wait(self) -> None:
        self.waited += 1


def walk(
    config: TrainConfig,
    positions: list[int],
    *,
    check: Any = None,
    stop_at: int = 0,
    loss: float = 1.0,
    siblings: Processes | None = None,
    progress: Progress | None = None,
) -> tuple[list[Event], bool]:
    recorder, flag, progress = Recorder(), StopFlag(), progress or Progress()
    boundary = StepBoundary(
        config, progress=progress, logbook=recorder, display=recorder, check=check, stop=flag,  # type: ignore[arg-type]
        processes=siblings or Processes(), save=recorder.save, save_best=recorder.save_best,
    )  # fmt: skip
    trainer: Any = SimpleNamespace(world_size=1, should_stop=False)
    module = PretrainingModule.__new__(PretrainingModule)
    torch.nn.Module.__init__(module)
    module.model, module.measured = torch.nn.Identity(), {"loss": torch.tensor(loss)}  # type: ignore[assignment]
    module.images = 1
    module._device = torch.device("cpu")  # type: ignore[attr-defined]
    for number, position in enumerate(positions, start=1):
        flag.number = signal.SIGTERM if number == stop_at else 0
        boundary.on_train_batch_end(trainer, module, None, batch_at(position), number)
    return recorder.events, trainer.should_stop


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"max_steps": 5, "checkpoint_every": 2, "zero_shot": {"every": 2}}


def config_of(values: dict[str, Any], **changes: Any) -> TrainConfig:
    return validate(TrainConfig, values | changes, where="test")


def test_epochs_are_counted_by_the_batches_trained(values: dict[str, Any]) -> None:
    events, _ = walk(config_of(values, checkpoint_every=1), [0, 1, 0, 0, 1])
    assert [what for name, what in events if name == "save"] == [(1, 0, 1), (2, 0, 2), (3, 1, 1), (4, 2, 1), (5, 2, 2)]


def test_rows_are_written_before_the_checkpoint_that_knows_them(values: dict[str, Any]) -> None:
    events, _ = walk(config_of(values), [0, 1, 2])
    assert [name for name, _ in events] == [
        "row", "show", "row", "show", "flush", "flush samples", "save", "row", "show"
    ]  # fmt: skip


def test_the_last_step_saves_and_stops(values: dict[str, Any]) -> None:
    events, stopped = walk(config_of(values, checkpoint_every=100), [0, 1, 2, 3, 4])
    assert stopped
    assert [what for name, what in events if name == "save"] == [(5, 0, 5)]


def test_a_signal_saves_and_stops_at_this_boundary(values: dict[str, Any]) -> None:
    events, stopped = walk(config_of(values, checkpoint_every=100), [0, 1, 2], stop_at=3)
    assert stopped
    assert events[-1] == ("save", (3, 0, 3))


def test_a_signal_to_another_process_stops_this_one_too(values: dict[str, Any]) -> None:
    events, stopped = walk(config_of(values, checkpoint_every=100), [0, 1, 2], siblings=Siblings(signal_at=3))
    assert stopped
    assert events[-1] == ("save", (3, 0, 3))


def test_the_slowest_clock_ends_the_run_for_all(values: dict[str, Any]) -> None:
    progress = Progress()
    _, stopped = walk(config_of(values, max_minutes=1.0), [0], siblings=Siblings(seconds=61.0), progress=progress)
    assert stopped
    assert progress.seconds == 61.0


def test_all_wait_for_a_check_and_for_a_checkpoint(values: dict[str, Any]) -> None:
    siblings = Siblings()
    # Without a check of its own, as on all processes but the one that leads; both are due after step 2.
    walk(config_of(values), [0], siblings=siblings)
    assert siblings.waited == 0
    walk(config_of(values), [0, 1], siblings=siblings)
    assert siblings.waited == 2


def test_processes_that_found_different_checkpoints_do_not_train(values: dict[str, Any]) -> None:
    class Elsewhere(Processes):
        def largest(self, *numbers: float) -> list[float]:
            return [max(number, other) for number, other in zip(numbers, (4, -4), strict=True)]

    boundary = StepBoundary(
        config_of(values), progress=Progress(step=3), logbook=None, display=None, check=None, stop=StopFlag(),
        processes=Elsewhere(), save=None, save_best=None,
    )  # type: ignore[arg-type]  # fmt: skip
    with pytest.raises(ConfigError, match="one folder that all of them see"):
        boundary.on_train_start(None, None)  # type: ignore[arg-type]


def test_checks_come_on_time_and_the_best_is_kept(values: dict[str, Any]) -> None:
    events, _ = walk(config_of(values), [0, 1, 2, 3, 4], check=Check(0.6, 0.55, 0.7))
    assert [what[2] for name, what in events if name == "row"] == [
        None,
        pytest.approx(0.6),
        None,
        pytest.approx(0.55),
        pytest.approx(0.7),
    ]
    assert [name for name, _ in events].count("best") == 2


def test_a_broken_loss_is_never_saved(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="step 2"):
        walk(config_of(values), [0, 1], loss=float("nan"))


def test_reasons_to_finish(values: dict[str, Any]) -> None:
    config = config_of(values, max_minutes=2.0)
    assert reason_to_finish(config, Progress(step=4, seconds=119.0)) is None
    assert reason_to_finish(config, Progress(step=4, seconds=120.0)) == "2 minutes of training are over"
    assert reason_to_finish(config, Progress(step=5)) == "all steps done"
