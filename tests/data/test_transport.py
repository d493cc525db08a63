import multiprocessing
import os
import pickle
import signal
import sys
import time
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from vlp.data.loader import prepare_worker
from vlp.data.transport import Parcel, Slabs, worker_death
from vlp.errors import BackendError
from vlp.tensors import Batch, ImageFeatures, Statements, Tokens


def _batch(number: int, *, images: int = 6, features: bool = False) -> Batch:
    codes = torch.arange(3) + number
    shape = (images, 1, 0, 0) if features else (images, 1, 128, 128)
    generator = torch.Generator().manual_seed(number)
    return Batch(
        images=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator),
        padding=None if features else torch.rand(images, 128, 128, generator=generator) < 0.5,
        tokens=Tokens(ids=codes[None], mask=torch.ones(1, 3, dtype=torch.bool)),
        sentence=torch.zeros(2, dtype=torch.int64),
        owner=torch.zeros(0, dtype=torch.int64),
        flipped=torch.tensor([True, False]),
        study=torch.arange(images),
        said=Statements(identity=codes, finding=codes, location=codes, certainty=codes),
        known=Statements(identity=codes, finding=codes, location=codes, certainty=codes),
        known_study=codes,
        keys=tuple(f"key-{number}-{index}" for index in range(images)),
        position=number,
        features=ImageFeatures(
            pooled=torch.rand(images, 64, generator=generator).half(),
            patches=torch.rand(images, 100, 64, generator=generator).half(),
            grid=(10, 10),
        )
        if features
        else None,
        replaced=("key-x",),
    )


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if is_dataclass(first):
        return all(same(getattr(first, field.name), getattr(second, field.name)) for field in fields(first))
    return first == second


class _Made(Dataset):
    def __init__(self, *, slabs: int | None, features: bool = False) -> None:
        self.slabs, self.features = slabs, features

    def __getitem__(self, number: int) -> Parcel:
        return Parcel(_batch(number, features=self.features), slabs=self.slabs)


def _loaded(made: _Made, numbers: range, *, workers: int, prefetch: int = 2) -> DataLoader:
    return DataLoader(made, batch_size=None, sampler=numbers, num_workers=workers, prefetch_factor=prefetch,
                      collate_fn=lambda item: item)  # fmt: skip


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("slab_bytes", [10**6, 150_000, 100])
def test_batches_arrive_as_they_were_sent_whether_or_not_they_fit(slab_bytes, features):
    slabs = Slabs(workers=2, each=4, slab_bytes=slab_bytes)
    loader = _loaded(_Made(slabs=slabs.number, features=features), range(30), workers=2)
    kept = [parcel.open() for parcel in loader]
    # All at the end: slabs were used several times by then, and a batch must not see it.
    assert all(same(batch, _batch(number, features=features)) for number, batch in enumerate(kept))


def test_more_batches_on_their_way_than_slabs_go_another_way():
    slabs = Slabs(workers=1, each=1, slab_bytes=10**6)
    parcels = list(_loaded(_Made(slabs=slabs.number), range(6), workers=1, prefetch=3))
    assert all(same(parcel.open(), _batch(number)) for number, parcel in enumerate(parcels))


def test_pixels_do_not_go_through_the_pipe_or_files():
    slabs = Slabs(workers=1, each=3, slab_bytes=10**6)
    parcels = _loaded(_Sizes(slabs=slabs.number), range(3), workers=1)
    assert max(parcels) < 10_000  # bytes, of a batch of 200,000
    assert min(_loaded(_Sizes(slabs=None), range(1), workers=1)) > 190_000


class _Sizes(_Made):
    def __getitem__(self, number: int) -> int:
        return len(pickle.dumps(super().__getitem__(number)))


def test_in_one_process_a_parcel_is_its_batch():
    batch = _batch(0)
    assert Parcel(batch, slabs=Slabs(workers=1, each=1, slab_bytes=10**6).number).open() is batch


def test_a_slab_is_given_back_when_its_batch_is_copied_out():
    slabs = Slabs(workers=2, each=2, slab_bytes=4096)
    first, second = slabs.take(1), slabs.take(1)
    assert slabs.take(1) is None
    assert slabs.take(0).number not in (first.number, second.number)
    place = first.put(torch.arange(10, dtype=torch.float32).reshape(2, 5))
    assert first.put(torch.zeros(4090, dtype=torch.uint8)) is None  # no room beside it
    assert torch.equal(slabs.view(first.number, place), torch.arange(10.0).reshape(2, 5))
    slabs.give_back(first.number)
    assert slabs.take(1).number == first.number


class _Dying(Dataset):
    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, place: int) -> int:
        if place == 1:
            os.kill(os.getpid(), self.number)
        return place


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_is_killed_is_one_line_with_advice(number):
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(_Dying(number), batch_size=None, sampler=range(4), num_workers=1))
    death = worker_death(caught.value)
    assert isinstance(death, BackendError)
    for advice in ("memory", "/dev/shm", "loader.workers"):
        assert advice in str(death)
    assert "\n" not in str(death)


def test_other_errors_are_not_taken_for_it():
    assert worker_death(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    gone = worker_death(RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"))
    assert "ended by itself" in str(gone)


def test_a_process_that_was_not_forked_sends_tensors_the_usual_way():
    slabs = Slabs(workers=1, each=2, slab_bytes=10**6)
    loader = DataLoader(_Made(slabs=slabs.number), batch_size=None, sampler=range(2), num_workers=1,
                        collate_fn=_as_it_is, multiprocessing_context=multiprocessing.get_context("spawn"))  # fmt: skip
    assert [same(parcel.open(), _batch(number)) for number, parcel in enumerate(loader)] == [True, True]


def _as_it_is(item):
    return item


def test_batches_without_texts_or_padding_travel_too():
    batch = replace(_batch(0), padding=None)
    empty = replace(batch, tokens=Tokens(ids=torch.zeros(0, 1).long(), mask=torch.zeros(0, 1).bool()))
    for sent in (batch, empty):
        assert same(pickle.loads(pickle.dumps(Parcel(sent))).open(), sent)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_workers_end_with_a_training_process_that_is_killed(tmp_path):
    """Else they would wait for ever for somebody to take what they made, and hold their memory."""
    context = multiprocessing.get_context("fork")

    def trains() -> None:
        loader = _loaded(_Made(slabs=None), range(1000), workers=2)
        loader.worker_init_fn = prepare_worker
        batches = iter(loader)
        next(batches)
        workers = [str(worker.pid) for worker in batches._workers]
        (tmp_path / "partial").write_text(" ".join(workers))
        (tmp_path / "partial").rename(tmp_path / "workers")
        time.sleep(60)

    process = context.Process(target=trains)
    process.start()
    until = time.monotonic() + 30
    while not (tmp_path / "workers").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    workers = [int(word) for word in (tmp_path / "workers").read_text().split()]
    assert all(_lives(worker) for worker in workers)
    process.kill()
    process.join()
    while any(_lives(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.01)


def _lives(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
