"""Towers that see a few images at a time: the loss and gradient of the whole batch, at a fraction of what is kept."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from vlp.config import validate
from vlp.data import open_shards
from vlp.data.loader import make_loader
from vlp.model.model import build
from vlp.tensors import Batch, Tokens
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.scale.micro import encode_images, encode_texts, number_of_parts


def config_of(values: dict[str, Any], **changes: Any) -> TrainConfig:
    nce = {"kind": "multi_positive_nce"}
    terms = [{"objective": nce, "on": "pooled", "weight": 0.5}, {"objective": nce, "on": "image_image"}]
    loader = {"batch_studies": 8, "workers": 0, "images_per_study": "all"}
    return validate(TrainConfig, values | {"terms": terms, "loader": loader} | changes, where="test")


def module_of(config: TrainConfig, change: Callable[[Any], Any] = lambda model: model) -> PretrainingModule:
    torch.manual_seed(0)
    return PretrainingModule(change(build(config.model)).train(), config)


def batch_for(config: TrainConfig, module: PretrainingModule, shards: Path) -> Batch:
    loader = make_loader(
        open_shards(shards), split="train", config=config.loader, preprocess=config.model.preprocess,
        tokenizer=module.model.tokenizer, train=True,
    )  # fmt: skip
    return next(iter(loader))


def gradients(module: PretrainingModule) -> dict[str, torch.Tensor]:
    found = {name: value.grad for name, value in module.model.named_parameters() if value.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


@contextmanager
def counting() -> Iterator[list[int]]:
    """The bytes that a forward pass keeps for the backward pass, each storage once."""
    seen: dict[int, int] = {}
    kept: list[torch.Tensor] = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        kept.append(value)  # alive, so that no address is used twice
        return value

    total = [0]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        yield total
    total[0] = sum(seen.values())


@pytest.mark.parametrize("micro", [1, 3, 7])
def test_loss_and_gradients_are_those_of_the_whole_batch(
    still_values: dict[str, Any], shards: Path, in_float64: Callable[[Any], Any], micro: int
) -> None:
    whole, parted = (module_of(config_of(still_values, micro_batch=size), in_float64) for size in (None, micro))
    batch = batch_for(whole.config, whole, shards)
    losses = [module.training_step(batch, 0) for module in (whole, parted)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-12)
    expected, found = gradients(whole), gradients(parted)
    assert found.keys() == expected.keys()
    assert len(found) == len([value for value in whole.model.parameters() if value.requires_grad])
    for name, value in expected.items():
        if not name.endswith("key.bias"):  # a gradient that is zero but for rounding
            assert float((found[name] - value).norm() / value.norm()) < 1e-9, name


def test_dropout_draws_the_same_numbers_again(values: dict[str, Any], shards: Path) -> None:
    module = module_of(config_of(values, micro_batch=3))
    batch = batch_for(module.config, module, shards)
    parts = number_of_parts((batch.num_images,), 3)
    pieces = zip(batch.images.tensor_split(parts), batch.tokens.ids.tensor_split(parts),
                 batch.tokens.mask.tensor_split(parts), strict=True)  # fmt: skip
    pieces_of_texts = []
    # The same parts, kept rather than computed anew, draw the same numbers once.
    torch.manual_seed(3)
    patches = []
    for images, ids, mask in pieces:
        patches.append(module.model.encode_images(images).patches)
        pieces_of_texts.append((ids, mask))
    texts = [module.model.encode_texts(Tokens(ids=ids, mask=mask)).pooled for ids, mask in pieces_of_texts]
    kept = torch.cat(patches).square().sum() + torch.cat(texts).square().sum()
    kept.backward()
    expected = gradients(module)
    torch.manual_seed(3)
    images = encode_images(module.model, batch, parts=parts)
    encoded = encode_texts(module.model, batch.tokens, parts=parts)
    again = images.patches.square().sum() + encoded.pooled.square().sum()
    after_forward = torch.get_rng_state()
    again.backward()
    assert torch.equal(torch.get_rng_state(), after_forward)
    assert again.item() == kept.item()
    for name, value in gradients(module).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.manual_seed(4)
    assert not torch.equal(encode_images(module.model, batch, parts=parts).patches, images.patches)


def test_far_less_is_kept_for_the_backward_pass(still_values: dict[str, Any], shards: Path) -> None:
    kept = []
    for micro in (None, 2):
        module = module_of(config_of(still_values, micro_batch=micro))
        batch = batch_for(module.config, module, shards)
        with counting() as total:
            encode_images(module.model, batch, parts=number_of_parts((batch.num_images,), micro)).patches.sum()
        kept.append(total[0])
    # Of the parts only the pixels are left, which the batch holds anyway.
    assert kept[1] < 0.05 * kept[0]


def test_recomputation_holds_one_part_at_a_time(still_values: dict[str, Any], shards: Path) -> None:
    module = module_of(config_of(still_values, micro_batch=2))
    batch = batch_for(module.config, module, shards)
    loss = module.training_step(batch, 0)
    made: list[StorageWeakRef] = []
    alive: list[int] = []

    def note(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        made.append(StorageWeakRef(output.untyped_storage()))
        alive.append(sum(not storage.expired() for storage in made))

    # What the first layer of a block's MLP makes is kept until the gradient has passed.
    module.model.image_tower.model.blocks[0].mlp.fc1.register_forward_hook(note)
    loss.backward()
    assert len(alive) == number_of_parts((batch.num_images,), 2) > 2
    assert alive == [1] * len(alive)


def test_running_statistics_move_once_and_alike(values: dict[str, Any], shards: Path) -> None:
    values["model"] = values["model"] | {"image": {"kind": "timm", "name": "resnet10t", "stage": 1}}
    module = module_of(config_of(values, micro_batch=4))
    batch = batch_for(module.config, module, shards)
    module.training_step(batch, 0)
    before = {name: value.clone() for name, value in module.model.named_buffers()}
    counts = {int(value) for name, value in before.items() if name.endswith("num_batches_tracked")}
    assert counts == {number_of_parts((batch.num_images,), 4)}
    module.training_step(batch, 0).backward()
    twice = {name: value.clone() for name, value in module.model.named_buffers()}
    assert not torch.equal(before["image_tower.model.bn1.running_mean"], twice["image_tower.model.bn1.running_mean"])
    assert {int(value) for name, value in twice.items() if name.endswith("num_batches_tracked")} == {2 * counts.pop()}
    other = module_of(module.config)
    for _ in range(2):
        other.training_step(batch, 0)
    for name, value in other.model.named_buffers():
        assert torch.equal(value, twice[name]), name


def test_a_frozen_text_tower_reads_every_sentence_once(values: dict[str, Any], shards: Path) -> None:
    values["model"]["text"] = values["model"]["text"] | {"freeze": "all", "head": "mlp"}
    module = module_of(config_of(values, micro_batch=2))
    batch = batch_for(module.config, module, shards)
    read = []
    encode = module.model.text_tower.encode
    module.model.text_tower.encode = lambda tokens: read.append(len(tokens.ids)) or encode(tokens)  # type: ignore
    for _ in range(2):
        module.training_step(batch, 0).backward()
    assert sum(read) == len(batch.tokens.ids)
    assert module.model.text_head[0].weight.grad is not None


@pytest.fixture
def frozen_values(still_values: dict[str, Any]) -> dict[str, Any]:
    """A frozen image tower below an align layer."""
    model = still_values["model"]
    return still_values | {"model": model | {"image": model["image"] | {"freeze": "all"}, "align": {"layers": 1}}}


@pytest.mark.parametrize("remembered", [False, True])
def test_a_frozen_image_tower_sees_every_image_once(
    frozen_values: dict[str, Any], shards: Path, in_float64: Callable[[Any], Any], remembered: bool
) -> None:
    change = (lambda model: model) if remembered else in_float64  # what is remembered is read as float32
    whole, parted = (module_of(config_of(frozen_values, micro_batch=size), change) for size in (None, 3))
    batch = batch_for(whole.config, whole, shards)
    expected_loss = whole.training_step(batch, 0)
    expected_loss.backward()
    if remembered:
        features = parted.model.image_features(batch.images, padding=batch.padding)
        batch = replace(batch, images=batch.images[:, :, :0, :0], padding=None, features=features)
    seen: list[int] = []
    encode = parted.model.image_tower.encode
    parted.model.image_tower.encode = lambda images: seen.append(len(images)) or encode(images)  # type: ignore
    loss = parted.training_step(batch, 0)
    loss.backward()
    assert sum(seen) == (0 if remembered else batch.num_images)
    assert max(seen, default=0) <= 3
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-6 if remembered else 1e-12)
    expected, found = gradients(whole), gradients(parted)
    assert found.keys() == expected.keys()
    assert any(name.startswith("align") for name in found)
    assert not any(name.startswith("image_tower") for name in found)
    for name, value in expected.items():
        if not name.endswith("key.bias"):
            assert float((found[name] - value).norm() / value.norm()) < (1e-4 if remembered else 1e-9), name


def test_no_text_at_all_has_gradients_of_zero(values: dict[str, Any]) -> None:
    module = module_of(config_of(values, micro_batch=2))
    calls = []
    module.model.text_tower.register_forward_hook(lambda *_: calls.append(1))
    vectors = encode_texts(module.model, module.model.tokenizer([]), parts=3).pooled
    assert vectors.shape == (0, 16)
    assert len(calls) == 3  # as on ranks that have texts: sharded towers are whole for all ranks at the same time
    vectors.sum().backward()
    found = {name: value.grad for name, value in module.model.named_parameters() if name.startswith("text_tower")}
    assert found
    assert all(value is not None and not value.any() for value in found.values())


@pytest.mark.parametrize(
    ("num_images", "micro", "parts"),
    [((8,), None, 1), ((8,), 8, 1), ((8,), 3, 3), ((8,), 1, 8), ((4, 9), 2, 4), ((4, 9), 3, 3), ((1, 9), 2, 1)],
)
def test_all_ranks_cut_into_equally_many_parts(num_images: tuple[int, ...], micro: int | None, parts: int) -> None:
    assert number_of_parts(num_images, micro) == parts


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_letterboxed_images_keep_their_padding(
    still_values: dict[str, Any], shards: Path, precision: torch.dtype
) -> None:
    values = still_values
    values["model"] = values["model"] | {"preprocess": {"size": [32, 48]}}
    module = module_of(config_of(values))
    batch = batch_for(module.config, module, shards)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        whole = encode_images(module.model, batch, parts=1)
        parted = encode_images(module.model, batch, parts=4)
        parted.patches.float().sum().backward()
    assert whole.padding is not None
    assert parted.padding is not None
    assert torch.equal(parted.padding, whole.padding)
    assert parted.grid == whole.grid
    torch.testing.assert_close(parted.patches, whole.patches, rtol=1e-2 if precision == torch.bfloat16 else 1e-5,
                               atol=1e-2 if precision == torch.bfloat16 else 1e-5)  # fmt: skip
