"""Shipped training configurations: all load, and every smoke sibling trains five steps, to the losses on record.

A change that is meant to change losses records them anew, and says so in CHANGELOG.md:

    VLP_RECORD_LOSSES=1 python -m pytest tests/train/test_config.py
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vlp.cli.train import train_kind
from vlp.config import dump, load, validate
from vlp.errors import ConfigError
from vlp.train.config import TrainConfig
from vlp.train.run import train
from vlp.train.watching.logbook import read_metrics, summary

FOLDER = Path(__file__).parents[2] / "configs" / "train"
PRETRAINING = [path for path in FOLDER.glob("*.yaml") if train_kind(path) == "pretraining"]
SMOKE = sorted(path for path in PRETRAINING if path.name.endswith(".smoke.yaml"))
RECORD = Path(__file__).with_name("recorded_losses.json")
WITHIN = 1e-4
"""Relative: processors and versions of torch round differently; a changed order or formula is far outside."""
WHOLE = sorted(path for path in PRETRAINING if path not in SMOKE)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_every_configuration_loads_and_has_a_smoke_sibling(path: Path) -> None:
    config = load(TrainConfig, path)
    assert path.with_suffix(".smoke.yaml") in SMOKE
    assert config.max_steps > 5


@pytest.mark.parametrize("path", SMOKE, ids=lambda path: path.name.removesuffix(".smoke.yaml"))
def test_every_smoke_sibling_trains_to_the_losses_on_record(path: Path, shards: Path, tmp_path: Path) -> None:
    overrides = [f"shards={shards}", f"output={tmp_path / 'run'}", "accelerator=cpu", "precision='32'"]
    run = train(load(TrainConfig, path, overrides))
    assert summary(run)["finished"]
    losses = [float(row["loss"]) for row in read_metrics(run / "metrics.csv")]
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    name = path.name.removesuffix(".smoke.yaml")
    if os.environ.get("VLP_RECORD_LOSSES"):
        record[name] = losses
        RECORD.write_text(json.dumps(dict(sorted(record.items())), indent=2) + "\n", encoding="utf-8")
    assert losses == pytest.approx(record[name], rel=WITHIN)
    assert len(losses) == 5


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
