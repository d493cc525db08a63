from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vlp.config import validate
from vlp.data import open_shards
from vlp.errors import BackendError, DataError
from vlp.model.model import build
from vlp.model.towers.huggingface import HuggingFaceTextTower
from vlp.model.towers.timm import TimmTower
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.watching import preflight
from vlp.train.watching.preflight import Preflight, examine, largest_batch

FOUND = Preflight(
    device="cpu", world=4, processes=2, studies=8, images=16, texts=20, tokens=12, peak_bytes=10**9,
    memory_bytes=3 * 10**9, micro_batch=None, step_s=0.1, step_images_per_s=160.0, loader_images_per_s=200.0,
    workers=2, shared_bytes=10**6, shared_free_bytes=10**9, checkpoint_bytes=10**8, checkpoints=4,
    disk_free_bytes=10**9,
)  # fmt: skip


def config_of(values: dict[str, Any]) -> TrainConfig:
    return validate(TrainConfig, values, where="test")


def line(found: Preflight, what: str) -> preflight.Check:
    return next(check for check in found.checks if check.what == what)


def test_a_small_run_fits_and_nothing_is_written(values: dict[str, Any], tmp_path: Path) -> None:
    found = examine(config_of(values))
    assert found.fits
    assert (found.device, found.world, found.studies, found.images) == ("cpu", 1, 8, 8)
    assert found.peak_bytes is not None
    assert 10**8 < found.peak_bytes < found.memory_bytes
    assert found.step_s is not None
    assert found.step_images_per_s == pytest.approx(8 / found.step_s)
    assert found.loader_images_per_s > 0
    assert found.workers == 0
    assert list(tmp_path.iterdir()) == []


def test_the_largest_batch_has_the_most_images_and_the_most_texts(values: dict[str, Any], shards: Path) -> None:
    values["loader"] |= {"batch_studies": 4, "images_per_study": "all"}
    config, reader = config_of(values), open_shards(shards)
    batch = largest_batch(reader, config, build(config.model))
    views = sorted((len(reader.sample(key).views) for key in reader.keys("train")), reverse=True)
    assert batch.num_images == sum(views[:4]) == 8  # every third study has two
    assert batch.study.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(batch.keys) == 4
    assert batch.owner.max() == 3
    values["loader"] |= {"images_per_study": "frontal"}
    assert largest_batch(reader, config_of(values), build(config.model)).num_images == 4


def test_a_batch_larger_than_the_archive_is_the_whole_archive(values: dict[str, Any], shards: Path) -> None:
    values["loader"] |= {"batch_studies": 1000}
    config, reader = config_of(values), open_shards(shards)
    assert len(largest_batch(reader, config, build(config.model)).keys) == len(reader.keys("train"))


def test_it_takes_real_steps(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    norms: list[float] = []
    step, clip = PretrainingModule.training_step, PretrainingModule.configure_gradient_clipping

    def watched(self: PretrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        losses.append(float(loss.detach()))
        return loss

    def clipped(self: PretrainingModule, *arguments: Any, **named: Any) -> None:
        clip(self, *arguments, **named)
        norms.append(float(self.measured["gradient_norm"]))

    monkeypatch.setattr(PretrainingModule, "training_step", watched)
    monkeypatch.setattr(PretrainingModule, "configure_gradient_clipping", clipped)
    examine(config_of(values))
    assert len(losses) == len(norms) == preflight._STEPS
    assert all(norm > 0 for norm in norms)


def test_the_final_resolution_is_what_is_tried(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        PretrainingModule, "on_before_optimizer_step", lambda self, optimizer: sizes.append(self.step), raising=False
    )
    examine(config_of(values))
    assert set(sizes) == {values["max_steps"] - 1}


def test_where_memory_is_short_a_micro_batch_that_fits_is_found(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, tried = PretrainingModule.training_step, []

    def short(self: PretrainingModule, batch: Any, batch_idx: int) -> torch.Tensor:
        tried.append(self.config.micro_batch)
        if self.config.micro_batch is None or self.config.micro_batch > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(PretrainingModule, "training_step", short)
    found = examine(config_of(values))
    assert not found.fits
    assert found.peak_bytes is None
    assert found.micro_batch == 2
    assert list(dict.fromkeys(tried)) == [None, 4, 2]
    assert line(found, "memory").advice == "does not fit; try micro_batch=2"


def test_where_nothing_fits_fewer_studies_are_the_advice(
    values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 10 bytes")

    monkeypatch.setattr(PretrainingModule, "training_step", short)
    found = examine(config_of(values))
    assert found.micro_batch is None
    assert line(found, "memory").advice == "does not fit; try a smaller loader.batch_studies"


def test_checkpointed_activations_are_tried_as_such(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for part in (TimmTower, HuggingFaceTextTower):
        monkeypatch.setattr(part, "set_checkpointing", lambda self, on: asked.append(f"{type(self).__name__} {on}"))
    examine(config_of(values))
    assert not asked
    examine(config_of(values | {"activation_checkpointing": True}))
    assert asked == ["TimmTower True", "HuggingFaceTextTower True"]


def test_another_error_is_no_lack_of_memory(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(PretrainingModule, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes differ"):
        examine(config_of(values))


def test_a_machine_with_less_memory_than_was_taken(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "memory_bytes", lambda: 10**7)
    found = examine(config_of(values))
    assert not found.fits
    assert found.micro_batch == 1
    assert "try micro_batch=1" in line(found, "memory").advice


def test_processes_of_a_machine_share_its_memory_and_gpus_do_not() -> None:
    assert FOUND.fits
    assert line(FOUND, "memory").value == "2 x 1.00 GB of 3.0 GB on cpu"
    assert not replace(FOUND, processes=4).fits
    assert replace(FOUND, processes=4, device="cuda, some card").fits


@pytest.mark.parametrize(
    ("loader", "workers", "wait", "advice"),
    [
        (200.0, 2, 0.0, ""),
        (40.0, 2, 0.75, "raise loader.workers"),  # a batch of 160 images takes 1 s to compute and 4 s to load
        (160.0, 0, 0.5, "try loader.workers=auto"),  # one after the other
    ],
)
def test_waiting_for_data_is_foretold(loader: float, workers: int, wait: float, advice: str) -> None:
    found = replace(FOUND, loader_images_per_s=loader, workers=workers)
    assert found.data_wait == pytest.approx(wait)
    told = line(found, "waiting for data")
    assert told.value == f"{wait:.0%} of the time"
    assert told.advice.startswith(advice)
    assert bool(told.advice) == bool(advice)
    assert found.fits  # slow is not the same as too large


def test_room_is_checked_where_it_is_needed() -> None:
    assert not replace(FOUND, disk_free_bytes=3 * 10**8).fits
    assert not replace(FOUND, shared_free_bytes=10**5).fits
    assert replace(FOUND, shared_free_bytes=10**5, workers=0).fits
    assert replace(FOUND, shared_free_bytes=None).fits


def test_the_size_of_a_checkpoint_is_that_of_its_files(values: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(values)
    model = build(config.model)
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad])
    sum(value.sum() for value in model.parameters() if value.requires_grad).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    from vlp.model import checkpoint

    checkpoint.save(tmp_path / "model", model, card={})
    weights = load_file(next((tmp_path / "model").glob("*.safetensors")))
    expected = sum(value.nbytes for value in weights.values()) + (tmp_path / "state.pt").stat().st_size
    assert preflight._checkpoint_bytes(model, config) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("retain", "every", "steps", "count"),
    [({"last": 2}, 100, 1000, 4), ({"last": 2, "best": 3}, 100, 1000, 7), ({"last": 2, "every": 500}, 100, 1000, 6),
     ({"last": 5}, 100, 150, 4)],
)  # fmt: skip
def test_checkpoints_on_the_disk_are_counted(
    values: dict[str, Any], retain: dict[str, int], every: int, steps: int, count: int
) -> None:
    config = config_of(values | {"retain": retain, "checkpoint_every": every, "max_steps": steps})
    assert preflight._checkpoints(config) == count  # with the one being written, and the final one


def test_workers_are_started_and_counted(values: dict[str, Any]) -> None:
    values["loader"] |= {"workers": 1, "prefetch": 2}
    found = examine(config_of(values))
    assert found.workers == 1
    pixels = 4 * 8 * 32 * 32  # of two batches ahead, one in the making and one in use
    assert pixels < found.shared_bytes < 3 * pixels  # and padding and tokens
    assert found.fits


def test_what_keeps_a_run_from_starting_is_told_as_the_run_would(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        examine(config_of(values | {"shards": str(tmp_path / "nowhere")}))
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="accelerator=gpu"):
            examine(config_of(values | {"accelerator": "gpu"}))
