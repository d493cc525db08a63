"""Two processes that share out the towers train as two that each hold everything."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from tests.train.conftest import as_config
from vlp.data import open_shards
from vlp.data.loader import make_loader
from vlp.errors import ConfigError
from vlp.model.model import VisionLanguageModel, build
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.optimizer import make_optimizer
from vlp.train.processes import find_place
from vlp.train.scale.sharding import (
    ShardedStrategy,
    average_gradients,
    clip_gradients,
    full_optimizer_state,
    full_weights,
    load_full_optimizer_state,
    load_full_weights,
    make_strategy,
    shard_towers,
)

Ranks = Callable[[int, Callable[[int], None]], list[int | None]]
STEPS, LIMIT = 4, 0.5


@pytest.fixture
def config(still_values: dict[str, Any]) -> TrainConfig:
    loader = {"batch_studies": 4, "workers": 0, "images_per_study": "all"}
    return as_config(still_values | {"loader": loader, "model": still_values["model"] | {"align": {"layers": 1}}})


def model_of(config: TrainConfig) -> VisionLanguageModel:
    torch.manual_seed(0)
    return build(config.model).train()


def optimizer_of(model: VisionLanguageModel, config: TrainConfig) -> torch.optim.Optimizer:
    return make_optimizer(model.parameter_groups(), config.optimizer)


def batches_of(config: TrainConfig, rank: int) -> list[Batch]:
    loader = make_loader(
        open_shards(config.shards), split="train", config=config.loader, preprocess=config.model.preprocess,
        tokenizer=model_of(config).tokenizer, train=True, rank=rank, world=2,
    )  # fmt: skip
    return list(loader) * 2


def train(
    model: VisionLanguageModel, optimizer: torch.optim.Optimizer, config: TrainConfig, batches: list[Batch]
) -> list[tuple[float, float]]:
    """(loss, length of the gradient) of every step; what is not sharded is averaged, as DDP does."""
    module = PretrainingModule(model, config)
    numbers = []
    for batch in batches:
        loss = module.training_step(batch, 0)
        loss.backward()
        average_gradients(model.parameters())
        norm = clip_gradients([value for group in optimizer.param_groups for value in group["params"]], LIMIT)
        optimizer.step()
        optimizer.zero_grad()
        numbers.append((loss.item(), norm.item()))
    return numbers


def same(found: Any, expected: Any, **close: float) -> None:
    torch.testing.assert_close(found, expected, **({"rtol": 1e-4, "atol": 1e-5} | close))


@pytest.mark.parametrize("micro", [None, 2])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_gradients_and_weights_are_those_of_whole_models(
    config: TrainConfig, connected: Ranks, micro: int | None, checkpointing: bool
) -> None:
    config = config.model_copy(update={"micro_batch": micro})

    def work(rank: int) -> None:
        batches = batches_of(config, rank)[:STEPS]
        results = []
        for sharded in (False, True):
            model = model_of(config)
            names = [name for name, _ in model.named_parameters()]
            if checkpointing:
                model.image_tower.set_checkpointing(True)
            if sharded:
                shard_towers(model)
                kinds = {name.partition(".")[0]: isinstance(value, DTensor) for name, value in model.named_parameters()}
                assert kinds == {"image_tower": True, "text_tower": True, "align": False, "image_head": False,
                                 "text_head": False, "scorer": False}  # fmt: skip
                held = sum(value.to_local().numel() for value in model.image_tower.parameters())  # type: ignore
                assert held < 0.6 * sum(value.numel() for value in model.image_tower.parameters())
            assert [name for name, _ in model.named_parameters()] == names
            numbers = train(model, optimizer_of(model, config), config, batches)
            results.append((numbers, full_weights(model)))
        (expected, weights), (found, sharded_weights) = results
        assert len({loss for loss, _ in expected}) == STEPS
        for (loss, norm), (other_loss, other_norm) in zip(expected, found, strict=True):
            assert other_loss == pytest.approx(loss, rel=1e-5)
            assert other_norm == pytest.approx(norm, rel=1e-4)
        assert max(norm for _, norm in expected) > LIMIT  # so clipping took part
        assert list(sharded_weights) == list(weights)
        for name, value in weights.items():
            if not name.endswith("key.bias"):  # a gradient that is zero but for rounding: Adam makes noise of it
                same(sharded_weights[name], value, atol=2e-4)

    assert connected(2, work) == [0, 0]


def test_a_run_goes_on_sharded_or_not_with_the_same_state(config: TrainConfig, connected: Ranks) -> None:
    def work(rank: int) -> None:
        batches = batches_of(config, rank)
        before = model_of(config)
        shard_towers(before)
        optimizer = optimizer_of(before, config)
        train(before, optimizer, config, batches[:2])
        weights, state = copy.deepcopy((full_weights(before), full_optimizer_state(optimizer)))
        assert not any(isinstance(value, DTensor) for value in weights.values())
        helped = full_weights(before, keep=False), full_optimizer_state(optimizer, keep=False)
        assert helped == ({}, {})
        expected = train(before, optimizer, config, batches[2:4])
        for sharded in (True, False):
            model = model_of(config)
            if sharded:
                shard_towers(model)
                load_full_weights(model, weights)
            else:
                model.load_state_dict(weights)
            again = optimizer_of(model, config)
            load_full_optimizer_state(again, state)
            repeated = full_optimizer_state(again)
            assert repeated["param_groups"] == state["param_groups"]
            assert repeated["state"].keys() == state["state"].keys()
            for number, values in state["state"].items():
                for name, value in values.items():
                    assert torch.equal(repeated["state"][number][name], value)
            found = train(model, again, config, batches[2:4])
            if sharded:
                assert found == expected
            same(torch.tensor(found), torch.tensor(expected))

    assert connected(2, work) == [0, 0]


def test_the_state_is_that_of_an_optimizer_that_never_was_sharded(config: TrainConfig, connected: Ranks) -> None:
    def work(rank: int) -> None:
        states = []
        for sharded in (False, True):
            model = model_of(config)
            if sharded:
                shard_towers(model)
            optimizer = optimizer_of(model, config)
            train(model, optimizer, config, batches_of(config, rank)[:1])
            states.append(full_optimizer_state(optimizer))
        plain, gathered = states
        assert plain["param_groups"] == gathered["param_groups"]
        for number, values in plain["state"].items():
            for name, value in values.items():
                assert gathered["state"][number][name].shape == value.shape
                same(gathered["state"][number][name], value)

    assert connected(2, work) == [0, 0]


def test_weights_changed_between_two_looks_are_seen_at_once(config: TrainConfig, connected: Ranks) -> None:
    def work(rank: int) -> None:
        model, other = model_of(config).eval(), model_of(config).eval()
        with torch.no_grad():
            for value in other.parameters():
                value.mul_(1.25)
        weights = {name: value.clone() for name, value in other.state_dict().items()}
        shard_towers(model)
        images = batches_of(config, rank)[0].images
        with torch.no_grad():
            before = model.encode_images(images).patches
            load_full_weights(model, weights)
            after = model.encode_images(images).patches
            expected = other.encode_images(images).patches
        assert not torch.allclose(before, expected, rtol=1e-2)
        same(after, expected)

    assert connected(2, work) == [0, 0]


def test_convolutional_towers_are_shared_out_too(config: TrainConfig, connected: Ranks) -> None:
    image = {"kind": "timm", "name": "resnet10t", "stage": 1}
    values = config.model_dump(mode="json")
    one = as_config(values | {"model": values["model"] | {"image": image, "align": {"layers": 0}}})

    def work(rank: int) -> None:
        losses = []
        for sharded in (False, True):
            model = model_of(one)
            if sharded:
                shard_towers(model)
            found = train(model, optimizer_of(model, one), one, batches_of(one, rank)[:2])
            losses.append([loss for loss, _ in found])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)

    assert connected(2, work) == [0, 0]


def test_frozen_towers_stay_whole(config: TrainConfig, connected: Ranks) -> None:
    frozen = config.model.text.model_copy(update={"freeze": "all"})
    one = config.model_copy(update={"model": config.model.model_copy(update={"text": frozen})})
    still = one.model.image.model_copy(update={"freeze": "all"})
    both = one.model.model_copy(update={"image": still})

    def work(rank: int) -> None:
        model = model_of(one)
        shard_towers(model)
        assert not any(isinstance(value, DTensor) for value in model.text_tower.parameters())
        texts = ["There is edema.", "There is no edema."][: 1 + rank]  # ranks ask a different number of times
        assert model.encode_texts(model.tokenizer(texts)).pooled.shape[0] == 1 + rank
        with pytest.raises(ConfigError, match="both towers are frozen"):
            shard_towers(build(both))
        odd = model_of(config)
        odd.image_tower.register_parameter("gain", torch.nn.Parameter(torch.tensor(1.0)))
        with pytest.raises(ConfigError, match=r"single numbers \(gain\)"):
            shard_towers(odd)

    assert connected(2, work) == [0, 0]


def test_clipping_alone_is_that_of_torch() -> None:
    layers = [torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)]
    for layer in layers:
        layer.weight.grad, layer.bias.grad = torch.full((2, 3), 3.0), torch.full((2,), 4.0)
    norm = clip_gradients(layers[0].parameters(), 0.5)
    assert norm.item() == pytest.approx(math.sqrt(6 * 9 + 2 * 16))
    torch.nn.utils.clip_grad_norm_(layers[1].parameters(), 0.5)
    assert torch.equal(layers[0].weight.grad, layers[1].weight.grad)
    clip_gradients(layers[0].parameters(), math.inf)
    assert torch.equal(layers[0].weight.grad, layers[1].weight.grad)


def test_the_strategy_is_chosen_by_name_and_number() -> None:
    assert make_strategy("fsdp", world=1) == make_strategy("ddp", world=1) == "auto"
    assert isinstance(make_strategy("fsdp", world=2), ShardedStrategy)
    with pytest.raises(ConfigError, match="16-mixed"):
        make_strategy("fsdp", world=2, precision="16-mixed")
    plain = make_strategy("ddp", world=2, idle=["a"])
    assert isinstance(plain, DDPStrategy)
    assert not isinstance(plain, ShardedStrategy)
    assert plain._ddp_kwargs == {"find_unused_parameters": True}


class Noted(PretrainingModule):
    """Writes down its losses, and takes part in nothing else that a run does."""

    losses: list[float]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.measured = {}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        clip_gradients([value for group in optimizer.param_groups for value in group["params"]], LIMIT)

    def on_train_batch_end(self, *_: Any) -> None:
        self.losses.append(float(self.measured["loss"]))


def test_lightning_trains_sharded_models(config: TrainConfig, tmp_path: Path, by_torchrun: Ranks) -> None:
    def work(rank: int) -> None:
        place = find_place(devices=2, nodes=1)
        losses = {}
        for kind in ("ddp", "fsdp"):
            module = Noted(model_of(config), config)
            module.losses = []
            trainer = pl.Trainer(
                accelerator="cpu", devices=2, strategy=make_strategy(kind, world=2), max_steps=STEPS, logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                use_distributed_sampler=False, plugins=[place.environment()], default_root_dir=tmp_path,
            )  # fmt: skip
            trainer.fit(
                module,
                train_dataloaders=DataLoader(batches_of(config, rank), batch_size=None, collate_fn=lambda batch: batch),
            )
            losses[kind] = module.losses
            names = set(full_weights(module.model))
            assert names == set(model_of(config).state_dict())
            dist.barrier()
        assert len(losses["ddp"]) == STEPS
        assert losses["fsdp"] == pytest.approx(losses["ddp"], rel=1e-5)

    assert by_torchrun(2, work) == [0, 0]
