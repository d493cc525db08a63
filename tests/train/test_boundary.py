import json
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlp.config import validate
from vlp.errors import ConfigError, DataError
from vlp.tensors import Batch, Statements, Tokens
from vlp.train.boundary import Instruments, StepBoundary, reason_to_finish
from vlp.train.config import TrainConfig
from vlp.train.folder import RunFolder
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place, Processes
from vlp.train.saving.state import Progress
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

    def phase(self, name: str, step: int) -> None:
        pass


class Keeper:
    """Stands for what keeps checkpoints, and notes what it was asked for."""

    def __init__(self, recorder: Recorder, progress: Progress, *, has_checkpoint: bool = True) -> None:
        self.recorder, self.progress, self.has_checkpoint = recorder, progress, has_checkpoint

    def save(self, score: float | None = None) -> None:
        at = self.progress
        self.recorder.events.append(("save", (at.step, at.epoch, at.position)))

    def follow(self, step: int) -> None:
        self.recorder.events.append(("follow", step))

    def go_back(self) -> bool:
        self.recorder.events.append(("back", self.progress.step))
        return self.has_checkpoint

    def evaluated(self) -> Any:
        return nullcontext()


class Check:
    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def attempt(self, model: Any, *, device: Any) -> dict[str, float]:
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
    """Other processes that see what this one does not: a signal at a step, a slower clock, damaged studies."""

    def __init__(self, *, signal_at: int = 0, seconds: float = 0.0, damaged: int = 0) -> None:
        super().__init__()
        self.signal_at, self.seconds, self.damaged, self.asked = signal_at, seconds, damaged, 0

    def largest(self, *numbers: float) -> list[float]:
        if len(numbers) < 3:
            return list(numbers)
        self.asked += 1
        signalled = int(signal.SIGUSR1) if self.asked == self.signal_at else 0
        replaced = [number + self.damaged for number in numbers[2:]]
        return [max(numbers[0], signalled), max(numbers[1], self.seconds), *replaced]

    def collect(self, text: str) -> list[str]:
        return [text, '["other"]']


def make_boundary(
    config: TrainConfig,
    recorder: Recorder,
    *,
    progress: Progress,
    flag: StopFlag,
    folder: Path = Path(),
    **changes: Any,
) -> StepBoundary:
    instruments: dict[str, Any] = {
        "folder": RunFolder(folder),
        "logbook": recorder,
        "display": recorder,
        "watchdog": recorder,
        "place": Place(),
        "processes": Processes(),
        "stop": flag,
        "keeper": Keeper(recorder, progress),
    }
    return StepBoundary(config, Instruments(**instruments | changes), progress=progress)


def walk(
    config: TrainConfig,
    positions: list[int],
    *,
    stop_at: int = 0,
    broken: tuple[int, ...] = (),
    replaced: tuple[str, ...] = (),
    progress: Progress | None = None,
    **changes: Any,
) -> tuple[list[Event], bool]:
    recorder, flag, progress = Recorder(), StopFlag(), progress or Progress()
    boundary = make_boundary(config, recorder, progress=progress, flag=flag, **changes)
    trainer: Any = SimpleNamespace(world_size=1, should_stop=False)
    module = PretrainingModule.__new__(PretrainingModule)
    torch.nn.Module.__init__(module)
    module.model, module.measured = torch.nn.Identity(), {"loss": torch.tensor(1.0)}  # type: ignore[assignment]
    module.images = 1
    module._device = torch.device("cpu")  # type: ignore[attr-defined]
    for number, position in enumerate(positions, start=1):
        flag.number = signal.SIGTERM if number == stop_at else 0
        module.skipped = number in broken
        batch = replace(batch_at(position), replaced=replaced)
        boundary.on_train_batch_start(trainer, module, batch, number)
        boundary.on_train_batch_end(trainer, module, None, batch, number)
    return recorder.events, trainer.should_stop


def names(events: list[Event]) -> list[str]:
    return [name for name, _ in events if name != "follow"]


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
    assert names(events) == [
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
    events, stopped = walk(config_of(values, checkpoint_every=100), [0, 1, 2], processes=Siblings(signal_at=3))
    assert stopped
    assert events[-1] == ("save", (3, 0, 3))


def test_the_slowest_clock_ends_the_run_for_all(values: dict[str, Any]) -> None:
    progress = Progress()
    _, stopped = walk(config_of(values, max_minutes=1.0), [0], processes=Siblings(seconds=61.0), progress=progress)
    assert stopped
    assert progress.seconds == 61.0


def test_processes_that_found_different_checkpoints_do_not_train(values: dict[str, Any]) -> None:
    class Elsewhere(Processes):
        def largest(self, *numbers: float) -> list[float]:
            return [max(number, other) for number, other in zip(numbers, (4, -4), strict=True)]

    boundary = make_boundary(
        config_of(values), Recorder(), progress=Progress(step=3), flag=StopFlag(), processes=Elsewhere()
    )
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
    assert [what[0] for name, what in events if name == "save"] == [2, 4, 5]


def test_a_better_check_is_saved_at_once_where_the_best_is_kept(values: dict[str, Any]) -> None:
    config = config_of(values, checkpoint_every=100, keep="best", zero_shot={"every": 1})
    events, _ = walk(config, [0, 1, 2, 3], check=Check(0.6, 0.55, 0.6, 0.7))
    assert [what[0] for name, what in events if name == "save"] == [1, 4]


def test_a_step_that_is_left_out_is_counted_and_noted_and_not_averaged(values: dict[str, Any], tmp_path: Path) -> None:
    progress = Progress()
    events, _ = walk(
        config_of(values), [0, 1, 2], broken=(2,), progress=progress, folder=tmp_path, processes=Siblings()
    )
    assert progress.skipped == 1
    assert [what for name, what in events if name == "follow"] == [1, 3]
    assert json.loads((tmp_path / "skipped.jsonl").read_text()) == {"step": 2, "epoch": 0, "keys": [["a"], ["other"]]}


def test_after_too_many_in_a_row_a_run_goes_back_and_in_the_end_gives_up(
    values: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(values, max_steps=9, guard={"patience": 2, "rollbacks": 1})
    events, _ = walk(config, [0, 1, 2, 3], broken=(2, 3), folder=tmp_path)
    assert [what for name, what in events if name == "back"] == [3]
    with pytest.raises(ConfigError, match="not a finite number at step 5"):
        walk(config, [0, 1, 2, 3, 4], broken=(2, 3, 4, 5), folder=tmp_path)


def test_a_step_that_was_left_out_is_nothing_to_go_back_to(values: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(values, checkpoint_every=1, zero_shot={"every": 0})
    events, _ = walk(config, [0, 1, 2, 3], broken=(2, 3), folder=tmp_path)
    assert [what[0] for name, what in events if name == "save"] == [1, 4]


def test_without_a_checkpoint_there_is_no_way_back(values: dict[str, Any], tmp_path: Path) -> None:
    recorder, progress = Recorder(), Progress()
    keeper = Keeper(recorder, progress, has_checkpoint=False)
    with pytest.raises(ConfigError, match="not a finite number at step 3"):
        walk(config_of(values), [0, 1, 2], broken=(1, 2, 3), folder=tmp_path, keeper=keeper, progress=progress)


def test_damaged_studies_of_all_processes_are_counted_against_the_budget(values: dict[str, Any]) -> None:
    loader = values["loader"] | {"corrupt_budget": 5}
    progress = Progress(replaced=1)
    walk(config_of(values, loader=loader), [0, 1], replaced=("x",), progress=progress)
    assert progress.replaced == 3
    with pytest.raises(DataError, match=r"6 damaged studies were met and loader.corrupt_budget is 5"):
        walk(config_of(values, loader=loader), [0], replaced=("x",), processes=Siblings(damaged=5))


def test_reasons_to_finish(values: dict[str, Any]) -> None:
    config = config_of(values, max_minutes=2.0)
    assert reason_to_finish(config, Progress(step=4, seconds=119.0)) is None
    assert reason_to_finish(config, Progress(step=4, seconds=120.0)) == "2 minutes of training are over"
    assert reason_to_finish(config, Progress(step=5)) == "all steps done"
