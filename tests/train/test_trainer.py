import logging
import warnings
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from vlp.config import validate
from vlp.errors import BackendError, ConfigError
from vlp.model.model import build
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule
from vlp.train.processes import Place
from vlp.train.trainer import (
    choose_precision,
    make_trainer,
    quiet_lightning,
    refuse_what_cannot_run,
    share_batch_statistics,
    uses_gpu,
)

CNN = {"kind": "timm", "name": "resnet10t", "stage": 1}
TWO = Place(world=2)


def config_of(values: dict[str, Any], **changes: Any) -> TrainConfig:
    return validate(TrainConfig, values | {"accelerator": "cpu"} | changes, where="test")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that says it has two GPUs; nothing is sent there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)


def test_one_process_needs_no_strategy(values: dict[str, Any]) -> None:
    config = config_of(values)
    trainer = make_trainer(config, PretrainingModule(build(config.model), config), place=Place())
    assert type(trainer.strategy) is SingleDeviceStrategy


def test_several_processes_look_for_idle_parameters_only_where_there_are_some(
    values: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(values, devices=2)
    module = PretrainingModule(build(config.model).train(), config)
    for spare in (False, True):
        if spare:
            module.model.scorer.spare = nn.Parameter(torch.zeros(1))
        with caplog.at_level(logging.INFO, logger="vlp"):
            trainer = make_trainer(config, module, place=TWO)
        assert isinstance(trainer.strategy, DDPStrategy)
        assert trainer.strategy._ddp_kwargs["find_unused_parameters"] is spare
        assert isinstance(trainer.strategy.cluster_environment, LightningEnvironment)
        assert ("no part in any score, e.g. scorer.spare" in caplog.text) is spare


def test_lightning_never_takes_slurm_for_its_own(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0",
                        "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    config = config_of(values)
    trainer = make_trainer(config, PretrainingModule(build(config.model), config), place=Place())
    assert type(trainer._accelerator_connector.cluster_environment) is LightningEnvironment


@pytest.mark.usefixtures("gpus")
def test_more_gpus_than_there_are_is_one_plain_error(values: dict[str, Any]) -> None:
    refuse_what_cannot_run(config_of(values, accelerator="auto", devices=2))
    refuse_what_cannot_run(config_of(values, accelerator="cpu", devices=8))
    with pytest.raises(BackendError, match="devices=3: torch sees 2 GPUs here"):
        refuse_what_cannot_run(config_of(values, accelerator="auto", devices=3))


def test_what_a_cpu_has_not_is_refused(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="no GPU here"):
        refuse_what_cannot_run(config_of(values, accelerator="gpu"))
    with pytest.raises(ConfigError, match="16-mixed needs a GPU"):
        refuse_what_cannot_run(config_of(values, precision="16-mixed"))


@pytest.mark.usefixtures("gpus")
def test_precision_is_that_of_the_device_in_use(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    on_gpu, on_cpu = (config_of(values, precision="auto", accelerator=where) for where in ("auto", "cpu"))
    assert (uses_gpu(on_gpu), uses_gpu(on_cpu)) == (True, False)
    assert choose_precision(on_gpu) == "bf16-mixed"
    assert choose_precision(on_cpu) == "32"
    assert choose_precision(config_of(values, precision="16-mixed", accelerator="auto")) == "16-mixed"


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_b0"])
def test_gpus_share_batch_statistics_and_the_model_stays_what_it_was(values: dict[str, Any], name: str) -> None:
    values["model"] = values["model"] | {"image": CNN | {"name": name}}
    config = config_of(values, accelerator="auto", devices=2)
    model = build(config.model)
    images = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        before, state = model.eval().encode_images(images).patches, dict(model.state_dict())
    model.train()
    share_batch_statistics(model, config, place=TWO)
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(part, nn.SyncBatchNorm) and part.training for part in norms)
    after = model.state_dict()
    assert after.keys() == state.keys()
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_images(images).patches, before)


@pytest.mark.parametrize(("changes", "place", "said"), [({}, Place(), False), ({"devices": 2}, TWO, True)])
def test_processes_on_a_cpu_say_once_that_they_do_not_share(
    values: dict[str, Any], caplog: pytest.LogCaptureFixture, changes: dict[str, Any], place: Place, said: bool
) -> None:
    for image, expected in ((values["model"]["image"], False), (CNN, said), (CNN | {"freeze": "all"}, False)):
        caplog.clear()
        config = config_of(values | {"model": values["model"] | {"image": image}}, **changes)
        model = build(config.model).train()
        with caplog.at_level(logging.INFO, logger="vlp"):
            share_batch_statistics(model, config, place=place)
        assert not any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
        assert ("its own images" in caplog.text) is expected


def test_lightning_is_quiet_inside_the_block_alone() -> None:
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    with quiet_lightning():
        assert logging.getLogger("lightning_fabric").level == logger.level == logging.ERROR
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("hint", UserWarning, "x.py", 1, module="pytorch_lightning.trainer")
            warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="vlp.train")
        assert [str(warning.message) for warning in caught] == ["ours"]
    assert logger.level == level
