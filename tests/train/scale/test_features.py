"""Features of a frozen tower read from the disk: the losses of a run that looks at pixels, without looking at them."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.train.conftest import NUM_TRAIN, as_config
from vlp.data import open_shards
from vlp.data.feature_store import FeatureHeader, FeatureStore
from vlp.data.loader import make_loader
from vlp.errors import ConfigError, DataError
from vlp.model.model import build
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.processes import Processes
from vlp.train.scale import features as features_module
from vlp.train.scale.features import FeatureCacheConfig, ensure_features, refuse_features, tower_digest, wanted_images
from vlp.train.signals import StopFlag

SHARDS = {"shards": "0" * 64}


@pytest.fixture
def config(still_values: dict[str, Any]) -> TrainConfig:
    """A frozen image tower below an align layer; square images get bars at both sides."""
    model = still_values["model"]
    model |= {"image": model["image"] | {"freeze": "all"}, "align": {"layers": 1}, "preprocess": {"size": [32, 48]}}
    loader = {"batch_studies": 8, "workers": 0, "images_per_study": "all", "augment": None}
    return as_config(still_values | {"model": model, "loader": loader})


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "FeatureHeader", partial(FeatureHeader, images_per_part=7))


def module_of(config: TrainConfig, *, seed: int = 0) -> PretrainingModule:
    torch.manual_seed(seed)
    return PretrainingModule(build(config.model).train(), config)


def ensured(
    module: PretrainingModule, folder: Path, *, kept: FeatureCacheConfig | None = None, **changes: Any
) -> FeatureStore:
    config = module.config
    known = {"loader": config.loader, "config": kept or FeatureCacheConfig(images_at_a_time=5), "folder": folder,
             "shards": SHARDS, "workers": 0, "processes": Processes(), "stop": StopFlag()}  # fmt: skip
    return ensure_features(module.model, open_shards(config.shards), **(known | changes))


def batches_of(module: PretrainingModule, store: FeatureStore | None) -> list[Batch]:
    config = module.config
    loader = make_loader(
        open_shards(config.shards), split="train", config=config.loader, preprocess=config.model.preprocess,
        tokenizer=module.model.tokenizer, train=True, features=store,
    )  # fmt: skip
    return list(loader)


def counted(module: PretrainingModule) -> list[int]:
    """How many images the tower looks at from now on, each time it does."""
    seen: list[int] = []
    encode = module.model.image_tower.encode
    module.model.image_tower.encode = lambda images: seen.append(len(images)) or encode(images)  # type: ignore
    return seen


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-6), ("float16", 2e-3)])
@pytest.mark.parametrize("micro", [None, 3])
def test_losses_and_gradients_are_those_of_pixels(
    config: TrainConfig, tmp_path: Path, dtype: Any, close: float, micro: int | None
) -> None:
    module = module_of(config.model_copy(update={"micro_batch": micro}))
    store = ensured(module, tmp_path / "features", kept=FeatureCacheConfig(dtype=dtype))
    with_pixels, remembered = batches_of(module, None), batches_of(module, store)
    assert len(with_pixels) == len(remembered) == 3
    seen = counted(module)
    for pixels, features in zip(with_pixels, remembered, strict=True):
        assert features.keys == pixels.keys
        assert features.images.shape == (pixels.num_images, 1, 0, 0)
        results = []
        for batch in (pixels, features):
            seen.clear()
            loss = module.training_step(batch, 0)
            loss.backward()
            gradients = {name: value.grad for name, value in module.model.named_parameters() if value.grad is not None}
            module.zero_grad(set_to_none=True)
            results.append((loss.item(), gradients))
        assert seen == []  # of the features, which came last
        assert results[1][0] == pytest.approx(results[0][0], rel=close)
        for name, gradient in results[0][1].items():
            if not name.endswith("key.bias"):  # zero but for rounding
                assert float((results[1][1][name] - gradient).norm() / gradient.norm()) < 30 * close, name


@pytest.mark.usefixtures("small_parts")
def test_every_image_is_looked_at_once_and_a_second_start_looks_at_none(config: TrainConfig, tmp_path: Path) -> None:
    module = module_of(config)
    seen = counted(module)
    store = ensured(module, tmp_path / "features", workers=2)
    wanted = dict(wanted_images(open_shards(config.shards), split="train", loader=config.loader))
    assert len(wanted) == NUM_TRAIN
    assert sum(seen) == len(store) == sum(map(len, wanted.values())) > NUM_TRAIN
    assert max(seen) <= 5
    seen.clear()
    assert len(ensured(module, tmp_path / "features")) == len(store)
    assert seen == []
    (tmp_path / "features" / "part-000002.bin").unlink()
    ensured(module, tmp_path / "features")
    assert sum(seen) == 7


def test_only_frontal_images_are_kept_where_no_others_are_asked_for(config: TrainConfig) -> None:
    loader = config.loader.model_copy(update={"images_per_study": "frontal"})
    reader = open_shards(config.shards)
    for key, images in wanted_images(reader, split="train", loader=loader):
        assert images == reader.sample(key).frontal[:1]


def test_the_same_tower_below_other_heads_shares_them_and_another_one_does_not(
    config: TrainConfig, tmp_path: Path
) -> None:
    module = module_of(config)
    ensured(module, tmp_path / "features")
    wider = config.model.model_copy(update={"dim": 24})
    other = module_of(config.model_copy(update={"model": wider}), seed=1)
    other.model.image_tower.load_state_dict(module.model.image_tower.state_dict())
    seen = counted(other)
    ensured(other, tmp_path / "features")
    assert seen == []
    with torch.no_grad():
        next(other.model.image_tower.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ConfigError, match=r"image tower differ"):
        ensured(other, tmp_path / "features")
    with pytest.raises(ConfigError, match=r"shards differ"):
        ensured(module, tmp_path / "features", shards={"shards": "1" * 64})
    with pytest.raises(ConfigError, match=r"precision differ"):
        ensured(module, tmp_path / "features", precision="bf16-mixed")
    named = FeatureCacheConfig(folder=tmp_path / "elsewhere")
    assert ensured(other, tmp_path / "features", kept=named).folder == tmp_path / "elsewhere"


def test_the_digest_is_of_names_shapes_and_values() -> None:
    layer = torch.nn.Linear(2, 3)
    before = tower_digest(layer)
    assert tower_digest(layer) == before
    renamed = torch.nn.Sequential(layer)
    assert tower_digest(renamed) != before
    with torch.no_grad():
        layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(9.0))
    assert tower_digest(layer) != before
    assert tower_digest(torch.nn.BatchNorm1d(2)) != tower_digest(torch.nn.BatchNorm1d(2, affine=False))


def test_what_changes_from_epoch_to_epoch_is_refused(config: TrainConfig, still_values: dict[str, Any]) -> None:
    frozen = build(config.model)
    refuse_features(frozen, config.loader)
    with pytest.raises(ConfigError, match=r"loader\.augment"):
        refuse_features(frozen, config.loader.model_copy(update={"augment": as_config(still_values).loader.augment}))
    learns = config.model.image.model_copy(update={"freeze": 1})
    with pytest.raises(ConfigError, match="the image tower learns"):
        refuse_features(build(config.model.model_copy(update={"image": learns})), config.loader)


@pytest.mark.usefixtures("small_parts")
def test_processes_share_the_work(
    config: TrainConfig, tmp_path: Path, connected: Callable[[int, Callable[[int], None]], list[int | None]]
) -> None:
    module = module_of(config)

    def work(rank: int) -> None:
        seen = counted(module)
        store = ensured(module, tmp_path / "features", processes=Processes(), rank=rank, world=2)
        (tmp_path / f"rank-{rank}").write_text(f"{sum(seen)} {len(store)}")

    assert connected(2, work) == [0, 0]
    (first, total), (second, again) = ((tmp_path / f"rank-{rank}").read_text().split() for rank in range(2))
    assert total == again
    assert int(first) + int(second) == int(total)
    assert abs(int(first) - int(second)) <= 7
    alone = ensured(module, tmp_path / "alone")
    together = FeatureStore(tmp_path / "features")
    for place in alone.header.places():
        torch.testing.assert_close(together.get(*place).patches, alone.get(*place).patches, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("small_parts")
def test_a_signal_ends_it_after_a_part_and_it_goes_on_there(config: TrainConfig, tmp_path: Path) -> None:
    module, stop = module_of(config), StopFlag()
    seen = counted(module)
    encode = module.model.image_tower.encode

    def signalled(images: torch.Tensor) -> Any:
        if sum(seen) >= 8:
            stop.number = stop.number or int(signal.SIGTERM)
        return encode(images)

    module.model.image_tower.encode = signalled  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        ensured(module, tmp_path / "features", stop=stop)
    parts = sorted(path.name for path in (tmp_path / "features").glob("part-*"))
    assert parts == ["part-000000.bin", "part-000001.bin"]
    assert sum(seen) == 14
    seen.clear()
    store = ensured(module, tmp_path / "features")
    assert sum(seen) == len(store) - 14


def test_an_image_that_cannot_be_read_ends_it_or_is_left_to_a_stand_in(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = module_of(config)
    bad = open_shards(config.shards).keys("train")[3]
    seen_image = features_module.seen_image

    def unreadable(reader: Any, key: str, index: int, **options: Any) -> Any:
        if key == bad:
            raise DataError("image cannot be decoded")
        return seen_image(reader, key, index, **options)

    monkeypatch.setattr(features_module, "seen_image", unreadable)
    with pytest.raises(DataError, match="cannot be decoded"):
        ensured(module, tmp_path / "features")
    loader = config.loader.model_copy(update={"corrupt_budget": 2})
    store = ensured(module, tmp_path / "features", loader=loader)
    with pytest.raises(DataError, match="could not be read"):
        store.get(bad, 0)
    tolerant = module_of(config.model_copy(update={"loader": loader}))
    batches = batches_of(tolerant, store)
    assert [key for batch in batches for key in batch.replaced] == [bad]
    assert all(torch.isfinite(tolerant.training_step(batch, 0)) for batch in batches)
    module.config = module.config.model_copy(update={"loader": config.loader})
    with pytest.raises(DataError, match="could not be read"):
        batches_of(module, store)


def test_random_numbers_of_training_are_not_drawn(config: TrainConfig, tmp_path: Path) -> None:
    module = module_of(config)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ensured(module, tmp_path / "features", workers=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert module.model.align.training
    assert os.listdir(tmp_path) == ["features"]
