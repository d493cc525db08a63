"""What a training takes down and gets back: weights, average and optimizer, while training goes on."""

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vlp.config import validate
from vlp.model import checkpoint
from vlp.model.model import VisionLanguageModel, build
from vlp.train.config import TrainConfig
from vlp.train.optimizer import make_optimizer
from vlp.train.processes import Processes
from vlp.train.saving.keeper import Keeper
from vlp.train.saving.state import Progress
from vlp.train.saving.store import CheckpointStore, RetainConfig
from vlp.train.scale.averaging import AveragingConfig


class Training:
    """A model that is moved by an optimizer, with what keeps it."""

    def __init__(
        self,
        values: dict[str, Any],
        folder: Path,
        *,
        averaging: AveragingConfig | None = None,
        start: Path | None = None,
    ) -> None:
        config = validate(TrainConfig, values, where="test")
        torch.manual_seed(0)
        self.model = checkpoint.load(start) if start else build(config.model)
        self.optimizer = make_optimizer(self.model.parameter_groups(), config.optimizer)
        self.progress = Progress()
        self.keeper = Keeper(
            store=CheckpointStore(folder, RetainConfig(last=9)),
            model=self.model,
            progress=self.progress,
            processes=Processes(),
            leads=True,
            settings=config.model_dump(mode="json"),
            shards={"a": "1"},
            card=lambda: {"step": self.progress.step},
            averaging=averaging,
            start=start,
        )
        scaler = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
        trainer: Any = SimpleNamespace(optimizers=[self.optimizer], precision_plugin=scaler)
        self.keeper.on_train_start(trainer, None)  # type: ignore[arg-type]

    def step(self) -> None:
        """Moves every weight, by a gradient that differs from step to step."""
        generator = torch.Generator().manual_seed(self.progress.step)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        self.optimizer.step()
        self.progress.step += 1
        self.keeper.follow(self.progress.step)


def weights(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    return deepcopy(model.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("averaging", [None, AveragingConfig(decay=0.5)])
def test_a_new_start_goes_on_as_if_there_had_been_none(
    values: dict[str, Any], tmp_path: Path, averaging: AveragingConfig | None
) -> None:
    whole = Training(values, tmp_path, averaging=averaging)
    whole.step()
    whole.step()
    whole.keeper.save()
    whole.step()
    whole.keeper.store.wait()
    again = Training(values, tmp_path, averaging=averaging, start=tmp_path / "step-00000002")
    again.progress.step = 2
    again.step()
    assert same(weights(again.model), weights(whole.model))
    with whole.keeper.evaluated(), again.keeper.evaluated():
        assert same(weights(again.model), weights(whole.model))


def test_what_is_saved_is_what_was_when_saving_was_asked_for(values: dict[str, Any], tmp_path: Path) -> None:
    """The file is written while the next steps already change the weights."""
    training = Training(values, tmp_path)
    training.step()
    before = weights(training.model)
    training.keeper.save()
    for _ in range(5):
        training.step()
    training.keeper.store.wait()
    assert same(checkpoint.read_weights(tmp_path / "step-00000001"), before)
    assert checkpoint.read_card(tmp_path / "step-00000001")["step"] == 1


def test_going_back_takes_weights_and_optimizer_but_not_the_step(values: dict[str, Any], tmp_path: Path) -> None:
    training = Training(values, tmp_path, averaging=AveragingConfig(decay=0.5))
    assert not training.keeper.go_back()
    training.step()
    training.keeper.save()
    saved, moments = weights(training.model), deepcopy(training.optimizer.state_dict()["state"])
    training.step()
    assert training.keeper.go_back()
    assert training.progress.step == 2
    assert same(weights(training.model), saved)
    after = training.optimizer.state_dict()["state"]
    assert all(torch.equal(after[number]["exp_avg_sq"], moments[number]["exp_avg_sq"]) for number in moments)
    with training.keeper.evaluated():
        averages = weights(training.model)
    training.keeper.finish(tmp_path / "final", best=False)
    assert same(weights(checkpoint.load(tmp_path / "final")), averages)


def test_the_final_model_is_the_last_or_the_best_and_has_no_adapters(values: dict[str, Any], tmp_path: Path) -> None:
    image = values["model"]["image"] | {"lora": {"rank": 2}}
    training = Training(values | {"model": values["model"] | {"image": image}}, tmp_path)
    for score in (0.6, 0.8, 0.7):
        training.step()
        training.keeper.save(score)
    for best, step in ((False, 3), (True, 2)):
        training.keeper.finish(tmp_path / "final", best=best)
        assert checkpoint.read_card(tmp_path / "final")["step"] == step
        names = checkpoint.read_weights(tmp_path / "final")
        assert not [name for name in names if "lora" in name]
        plain = checkpoint.load(tmp_path / "final")
        assert plain.config.image.lora is None
        images = torch.randint(0, 255, (2, 1, 32, 32), dtype=torch.uint8)
        adapted = checkpoint.load(tmp_path / f"step-{step:08d}")
        torch.testing.assert_close(plain.encode_images(images).pooled, adapted.encode_images(images).pooled)
