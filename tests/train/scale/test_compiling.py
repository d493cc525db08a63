"""Compiled towers and towers laid out otherwise are the same model."""

import copy
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.train.conftest import as_config
from vlp.data import open_shards
from vlp.data.loader import make_loader
from vlp.errors import BackendError
from vlp.model.model import VisionLanguageModel, build
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.scale.compiling import compile_towers, is_convolutional, lay_out

CNN = {"kind": "timm", "name": "resnet10t", "stage": 1}


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """No translation of one test stands in another's way."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def config_with(values: dict[str, Any], **changes: Any) -> TrainConfig:
    loader = {"batch_studies": 6, "workers": 0, "images_per_study": "all"}
    return as_config(values | {"loader": loader} | changes)


def models_of(config: TrainConfig) -> tuple[VisionLanguageModel, VisionLanguageModel]:
    torch.manual_seed(0)
    model = build(config.model).train()
    return model, copy.deepcopy(model)


def batches_of(config: TrainConfig, model: VisionLanguageModel) -> list[Batch]:
    return list(
        make_loader(
            open_shards(config.shards), split="train", config=config.loader, preprocess=config.model.preprocess,
            tokenizer=model.tokenizer, train=True,
        )
    )  # fmt: skip


def train(model: VisionLanguageModel, config: TrainConfig, batches: list[Batch]) -> list[float]:
    module = PretrainingModule(model, config)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.05)
    losses = []
    for batch in batches:
        loss = module.training_step(batch, 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("backend", "micro"),
    [("aot_eager", None), ("aot_eager", 3), pytest.param("inductor", None, marks=pytest.mark.slow)],
)
def test_losses_and_weights_are_those_of_towers_as_they_are(
    still_values: dict[str, Any], backend: str, micro: int | None
) -> None:
    if backend == "inductor" and shutil.which("c++") is None:
        pytest.skip("no C++ compiler here")
    config = config_with(still_values, micro_batch=micro)
    plain, compiled = models_of(config)
    names = list(compiled.state_dict())
    assert compile_towers(compiled, backend=backend) == ["image", "text"]
    batches = batches_of(config, plain)
    assert len({batch.num_images for batch in batches}) > 1  # sizes differ from step to step
    expected, found = train(plain, config, batches), train(compiled, config, batches)
    assert found == pytest.approx(expected, rel=1e-4)
    assert list(compiled.state_dict()) == names
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_towers_are_translated_and_not_at_every_size(still_values: dict[str, Any]) -> None:
    config = config_with(still_values)
    _, model = models_of(config)
    graphs: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    compile_towers(model, backend=counting)  # type: ignore[arg-type]
    pixels = torch.zeros(8, 1, 32, 32, dtype=torch.uint8)
    for images in (2, 3, 4, 5, 6, 7, 8):
        model.encode_images(pixels[:images])
    assert 1 <= len(graphs) <= 2  # as first seen, then for any number


def test_a_frozen_text_tower_keeps_its_memory(still_values: dict[str, Any]) -> None:
    text = still_values["model"]["text"] | {"freeze": "all"}
    config = config_with(still_values, model=still_values["model"] | {"text": text})
    _, model = models_of(config)
    assert compile_towers(model, backend="aot_eager") == ["image"]
    assert model.text_tower._compiled_call_impl is None
    assert model.image_tower._compiled_call_impl is not None


def test_a_missing_compiler_is_named(still_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = models_of(config_with(still_values))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendError, match="no C\\+\\+ compiler found"):
        compile_towers(model)
    assert model.image_tower._compiled_call_impl is None


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_that_run_twice_can_be_compiled(still_values: dict[str, Any], checkpointing: bool) -> None:
    config = config_with(still_values)
    plain, compiled = models_of(config)
    compiled.image_tower.set_checkpointing(checkpointing)
    compile_towers(compiled, backend="aot_eager")
    batches = batches_of(config, plain)[:2]
    assert train(compiled, config, batches) == pytest.approx(train(plain, config, batches), rel=1e-4)


def formats(model: VisionLanguageModel) -> set[bool]:
    """Whether weights of convolutions (of more than one pixel) have their channels last."""
    convolutions = [part for part in model.image_tower.modules() if isinstance(part, nn.Conv2d)]
    return {
        part.weight.is_contiguous(memory_format=torch.channels_last)
        for part in convolutions
        if part.weight.shape[1] > 1 and part.weight.shape[2] > 1
    }


def test_convolutional_towers_have_their_channels_last(still_values: dict[str, Any]) -> None:
    config = config_with(still_values, model=still_values["model"] | {"image": CNN})
    first, second = models_of(config)
    names = list(first.state_dict())
    assert is_convolutional(first.image_tower)
    assert lay_out(first) is True
    assert lay_out(second, channels_last=False) is False
    assert (formats(first), formats(second)) == ({True}, {False})
    batches = batches_of(config, first)[:2]
    assert train(first, config, batches) == pytest.approx(train(second, config, batches), rel=1e-4)
    assert list(first.state_dict()) == names


def test_transformers_stay_as_they_are(still_values: dict[str, Any]) -> None:
    model, _ = models_of(config_with(still_values))
    assert not is_convolutional(model.image_tower)
    assert lay_out(model) is False
    assert lay_out(model, channels_last=True) is True
