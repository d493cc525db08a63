"""What a store promises while nothing kills it; kills and full disks are in tests/integration/test_saving_faults.py."""

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.errors import CheckpointError
from vlp.model import checkpoint
from vlp.train.saving import store as module
from vlp.train.saving.checksums import SUMS_NAME, fault
from vlp.train.saving.store import CheckpointStore, RetainConfig


def writer(step: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_bytes(b"%d " % step * 1000)
        (folder / "card").write_text(str(step))

    return write


def make(folder: Path, **retain: int) -> CheckpointStore:
    return CheckpointStore(folder / "run" / "checkpoints", RetainConfig(**retain))


def saved(folder: Path, *steps: int, scores: dict[int, float] | None = None, **retain: int) -> CheckpointStore:
    store = make(folder, **retain)
    for step in steps:
        store.save(step, writer(step), score=(scores or {}).get(step), wait=True)
    return store


def folder_of(folder: Path, step: int) -> Path:
    return folder / "run" / "checkpoints" / f"step-{step:08d}"


def damage(folder: Path, step: int) -> None:
    file = folder_of(folder, step) / "inner" / "weights"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def test_an_empty_store_has_nothing(tmp_path: Path, said: list[str]) -> None:
    store = make(tmp_path)
    assert store.newest() is None
    assert store.best() is None
    assert store.steps() == ()
    assert not store.has_any()
    store.wait()
    assert not (tmp_path / "run").exists()  # asking makes nothing
    assert not said


def test_a_checkpoint_holds_what_was_written_and_nothing_is_left_beside(tmp_path: Path, said: list[str]) -> None:
    store = saved(tmp_path, 200, scores={200: 0.75})
    newest = store.newest()
    assert newest == folder_of(tmp_path, 200)
    assert fault(newest) is None
    assert (newest / "inner" / "weights").read_bytes() == b"200 " * 1000
    assert json.loads((newest / "score.json").read_text()) == {"step": 200, "score": 0.75}
    assert os.listdir(newest.parent) == ["step-00000200"]
    assert not said


def test_saving_goes_on_behind_the_training(tmp_path: Path) -> None:
    store, go_on = make(tmp_path), threading.Event()
    caller = threading.get_ident()
    writers = []

    def write(folder: Path) -> None:
        writers.append(threading.get_ident())
        assert go_on.wait(60)
        writer(1)(folder)

    store.save(1, write)
    assert not folder_of(tmp_path, 1).exists()  # and yet `save` is back
    go_on.set()
    store.wait()
    assert folder_of(tmp_path, 1).is_dir()
    assert writers != [caller]


def test_a_second_save_waits_for_the_first(tmp_path: Path) -> None:
    store, go_on = make(tmp_path), threading.Event()
    order: list[str] = []

    def slow(folder: Path) -> None:
        order.append("first begins")
        assert go_on.wait(60)
        writer(1)(folder)
        order.append("first ends")

    def quick(folder: Path) -> None:
        order.append("second begins")
        writer(2)(folder)

    store.save(1, slow)
    second = threading.Thread(target=store.save, args=(2, quick))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    second.join()
    store.wait()
    assert order == ["first begins", "first ends", "second begins"]
    assert store.steps() == (1, 2)


def test_who_asks_waits_for_the_save_that_runs(tmp_path: Path) -> None:
    store, go_on = make(tmp_path), threading.Event()
    store.save(1, lambda folder: (go_on.wait(60), writer(1)(folder))[-1])
    threading.Timer(0.1, go_on.set).start()
    assert store.newest() == folder_of(tmp_path, 1)


def failing(error: BaseException) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise error

    return write


@pytest.mark.parametrize("how", ["wait", "next"])
def test_a_failure_behind_the_training_is_raised_once(tmp_path: Path, how: str) -> None:
    store = saved(tmp_path, 1)
    store.save(2, failing(OSError(5, "Input/output error")))
    with pytest.raises(CheckpointError, match=r"step-00000002: cannot be saved: Input/output error;") as caught:
        store.wait() if how == "wait" else store.save(3, writer(3))
    assert "\n" not in str(caught.value)
    store.wait()
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000001"]
    assert store.newest() == folder_of(tmp_path, 1)
    store.save(3, writer(3), wait=True)
    assert store.newest() == folder_of(tmp_path, 3)


@pytest.mark.parametrize("error", [CheckpointError("weights: cannot be written"), ZeroDivisionError("ours")])
def test_errors_that_say_more_are_kept_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        make(tmp_path).save(1, failing(error), wait=True)
    assert caught.value is error


@pytest.mark.parametrize(("number", "advice"), [(28, "make room"), (122, "make room"), (13, "can be written")])
def test_the_reason_and_what_to_do_are_said(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(CheckpointError, match=f"{os.strerror(number)}; earlier checkpoints are untouched; .*{advice}"):
        make(tmp_path).save(1, failing(OSError(number, os.strerror(number))), wait=True)


def test_no_room_is_seen_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = saved(tmp_path, 1)
    size = sum(path.stat().st_size for path in folder_of(tmp_path, 1).rglob("*") if path.is_file())
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=size - 1))
    with pytest.raises(CheckpointError, match=r"step-00000002: not enough room: .* 0\.0 MB are free; earlier"):
        store.save(2, failing(AssertionError("was called")))
    assert store.newest() == folder_of(tmp_path, 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=size))
    store.save(2, writer(2), wait=True)
    assert store.newest() == folder_of(tmp_path, 2)


def test_what_reads_back_differently_gets_no_name_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = saved(tmp_path, 1, last=1)
    real = module.seal

    def lossy(folder: Path) -> None:
        real(folder)
        (folder / "inner" / "weights").write_bytes(b"x")

    monkeypatch.setattr(module, "seal", lossy)
    with pytest.raises(CheckpointError, match=r"read back \(inner/weights does not match its checksum\)"):
        store.save(2, writer(2), wait=True)
    assert store.steps() == (1,)
    assert store.newest() == folder_of(tmp_path, 1)


def test_damaged_newer_ones_are_named_and_left_out(tmp_path: Path, said: list[str]) -> None:
    store = saved(tmp_path, 1, 2, 3, 4, last=4)
    damage(tmp_path, 4)
    (folder_of(tmp_path, 3) / SUMS_NAME).unlink()
    damage(tmp_path, 1)  # older than the one that is found: nobody need know
    assert make(tmp_path).newest() == folder_of(tmp_path, 2)
    assert len(said) == 2
    assert said[0].startswith(f"{folder_of(tmp_path, 4)}: damaged checkpoint, left out: inner/weights does not match")
    assert said[1].startswith(f"{folder_of(tmp_path, 3)}: damaged checkpoint, left out: {SUMS_NAME} is missing")
    assert store.steps() == (1, 2, 3, 4)


@pytest.mark.parametrize("left", ["step-00000002", ".step-00000002.partial"])
def test_a_half_written_newer_one_is_named(tmp_path: Path, said: list[str], left: str) -> None:
    store = saved(tmp_path, 1)
    (tmp_path / "run" / "checkpoints" / ".partial" / left).mkdir(parents=True)
    assert store.newest() == folder_of(tmp_path, 1)
    assert said == [f"{folder_of(tmp_path, 2)}: half-written checkpoint, left out"]
    store.save(3, writer(3), wait=True)
    assert store.newest() == folder_of(tmp_path, 3)
    assert len(said) == 1


def test_only_damaged_ones_are_something(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    damage(tmp_path, 1)
    damage(tmp_path, 2)
    assert store.newest() is None
    assert store.has_any()
    assert store.best() is None


def test_only_a_half_written_one_is_nothing_to_lose(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / ".partial" / "step-00000001").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "final").mkdir()
    assert not make(tmp_path).has_any()


def test_a_damaged_one_takes_no_whole_ones_place(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2, 3, last=3)
    damage(tmp_path, 3)
    store = make(tmp_path, last=2)
    assert store.newest() == folder_of(tmp_path, 2)  # a run continues from here, and comes by 3 again
    store.save(4, writer(4), wait=True)
    assert store.steps() == (2, 4)


def test_the_same_step_is_replaced(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2)
    damage(tmp_path, 2)
    store.save(2, writer(2), wait=True)
    assert store.newest() == folder_of(tmp_path, 2)
    assert sorted(os.listdir(tmp_path / "run" / "checkpoints")) == ["step-00000001", "step-00000002"]


def test_what_was_just_saved_stays_though_later_ones_are_there(tmp_path: Path) -> None:
    store = saved(tmp_path, 5, 7, 3, last=1)
    assert store.steps() == (3, 7)


def test_what_lies_aside_counts_until_another_is_there(tmp_path: Path) -> None:
    store = saved(tmp_path, 1)
    aside = folder_of(tmp_path, 1).with_name(".step-00000001.older")
    os.rename(folder_of(tmp_path, 1), aside)  # a kill between the renames of a replacement
    assert store.newest() == aside
    assert store.steps() == (1,)
    assert store.has_any()
    store.save(1, writer(1), wait=True)
    assert os.listdir(aside.parent) == ["step-00000001"]
    os.rename(folder_of(tmp_path, 1), aside)
    for step in (2, 3):
        store.save(step, writer(step), wait=True)
    assert sorted(os.listdir(aside.parent)) == ["step-00000002", "step-00000003"]


def test_the_last_the_best_and_every_so_many_stay(tmp_path: Path) -> None:
    scores = {1: 0.5, 2: 0.9, 3: 0.7, 4: float("nan"), 5: 0.9, 6: 0.1, 8: 0.2}
    store = saved(tmp_path, *range(1, 9), scores=scores, last=1, best=2, every=3)
    assert store.steps() == (2, 3, 5, 6, 8)
    assert store.best() == folder_of(tmp_path, 2)  # the earlier of two equals
    damage(tmp_path, 2)
    assert store.best() == folder_of(tmp_path, 5)


def test_the_best_needs_a_score_that_can_be_read(tmp_path: Path) -> None:
    store = saved(tmp_path, 1, 2, 3, scores={1: 0.5, 2: 0.9}, last=3)
    (folder_of(tmp_path, 2) / "score.json").write_text("[")
    assert store.best() == folder_of(tmp_path, 1)


@given(
    scores=st.dictionaries(st.integers(1, 60), st.none() | st.sampled_from([0.1, 0.5, 0.9]), min_size=1),
    last=st.integers(1, 4),
    best=st.integers(0, 4),
    every=st.none() | st.integers(1, 9),
)
def test_retention_is_what_it_says(scores: dict[int, float | None], last: int, best: int, every: int | None) -> None:
    kept = RetainConfig(last=last, best=best, every=every).kept(scores)
    for step, score in scores.items():
        newer = sum(other > step for other in scores)
        better = sum(
            found is not None and score is not None and (found > score or (found == score and other < step))
            for other, found in scores.items()
        )
        stays = newer < last or (score is not None and better < best) or (every is not None and step % every == 0)
        assert (step in kept) == stays, step
    assert max(scores) in kept


def test_what_cannot_be_deleted_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> None:
    store = saved(tmp_path, 1, last=1)
    real = os.rename

    def refusing(source: Path, target: Path) -> None:
        if Path(target).parent.name == ".deleted":
            raise OSError(16, "Device or resource busy")
        real(source, target)

    monkeypatch.setattr(module.os, "rename", refusing)
    store.save(2, writer(2), wait=True)
    assert store.newest() == folder_of(tmp_path, 2)
    assert said == [f"{folder_of(tmp_path, 1)}: cannot be deleted: Device or resource busy"]
    monkeypatch.undo()
    store.save(3, writer(3), wait=True)
    assert store.steps() == (3,)


def test_a_model_folder_may_be_written_by_its_own_renames(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        building = folder.with_name(f".{folder.name}.partial")
        building.mkdir()
        writer(1)(building)
        checkpoint.take_place(building, folder)
        (folder / "state").write_text("more")

    store = make(tmp_path)
    store.save(1, write, wait=True)
    assert store.newest() == folder_of(tmp_path, 1)
    assert (folder_of(tmp_path, 1) / "state").read_text() == "more"
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["step-00000001"]


def test_a_checkpoint_has_its_name_only_when_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    sync, rename = os.fsync, os.rename

    def noting_sync(handle: int) -> None:
        events.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def noting_rename(source: Path, target: Path) -> None:
        events.append(f"{Path(target).name} named")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", noting_sync)
    monkeypatch.setattr(os, "rename", noting_rename)
    saved(tmp_path, 1, 2, last=1)
    begin, named = events.index("step-00000001 named") + 2, events.index("step-00000002 named")
    building = tmp_path / "run" / "checkpoints" / ".partial" / "step-00000002"
    files = ["card", "inner/weights", "score.json", SUMS_NAME, "inner", "."]
    assert {str(building / name) for name in files} <= set(events[begin:named])
    # Before the earlier one goes, the new name is on the disk as well.
    assert events[named + 1 :] == [str(building.parents[1]), "step-00000001 named"]
