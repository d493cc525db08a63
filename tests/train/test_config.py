"""Shipped training configurations: all load, and every smoke sibling trains five steps on tiny shards."""

from pathlib import Path
from typing import Any

import pytest

from vlp.config import dump, load, validate
from vlp.errors import ConfigError
from vlp.train.config import TrainConfig
from vlp.train.run import summary, train

FOLDER = Path(__file__).parents[2] / "configs" / "train"
SMOKE = sorted(FOLDER.glob("*.smoke.yaml"))
WHOLE = sorted(path for path in FOLDER.glob("*.yaml") if path not in SMOKE)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_configuration_loads_and_has_a_smoke_sibling(path: Path) -> None:
    config = load(TrainConfig, path)
    assert path.with_suffix(".smoke.yaml") in SMOKE
    assert config.max_steps > 5


@pytest.mark.parametrize("path", SMOKE, ids=lambda path: path.name.removesuffix(".smoke.yaml"))
def test_every_smoke_sibling_runs_five_steps(path: Path, shards: Path, tmp_path: Path) -> None:
    config = load(TrainConfig, path, [f"shards={shards}", f"output={tmp_path / 'run'}"])
    facts = summary(train(config))
    assert facts["steps"] == 5
    assert facts["finished"]


@pytest.mark.parametrize("path", SMOKE, ids=lambda path: path.name.removesuffix(".smoke.yaml"))
def test_a_smoke_sibling_has_the_same_classes(path: Path) -> None:
    smoke = load(TrainConfig, path)
    whole = load(TrainConfig, path.with_name(path.name.replace(".smoke", "")))
    for part in ("image", "text", "scorer"):
        assert type(getattr(smoke.model, part)) is type(getattr(whole.model, part))
    assert smoke.objective == whole.objective
    assert smoke.model.align.layers == whole.model.align.layers
    assert smoke.loader.sentences_per_study == whole.loader.sentences_per_study
    assert smoke.loader.texts == whole.loader.texts


def test_a_configuration_survives_writing_and_reading(values: dict[str, Any], tmp_path: Path) -> None:
    values["terms"] = [{"objective": {"kind": "clip"}, "on": "pooled"}]
    config = validate(TrainConfig, values, where="test")
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(TrainConfig, tmp_path / "config.yaml") == config


def test_a_misspelt_key_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"zero_shot\.evry: unknown key; did you mean 'every'"):
        validate(TrainConfig, values | {"zero_shot": {"evry": 3}}, where="test")


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_no_generator_takes_is_refused(values: dict[str, Any], seed: int) -> None:
    with pytest.raises(ConfigError, match="seed"):
        validate(TrainConfig, values | {"seed": seed}, where="test")
