from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.config import dump, validate
from vlp.errors import CheckpointError, ConfigError
from vlp.train.config import TrainConfig
from vlp.train.saving.resume import find_start, refuse_other
from vlp.train.saving.state import Progress, write_state
from vlp.train.saving.store import CheckpointStore, RetainConfig


def save(store: CheckpointStore, step: int) -> None:
    def write(folder: Path) -> None:
        progress = Progress(step=step, epoch=2, position=1)
        state = {"state": {0: {"exp_avg": torch.full((3,), float(step))}}, "param_groups": []}
        write_state(
            folder, progress=progress, optimizer_state=state, scaler={}, shards={"a": "1"}, versions={}, config={}
        )

    store.save(step, write, wait=True)


def test_the_newest_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, RetainConfig(last=3))
    assert find_start(store, where=tmp_path) is None
    for step in (2, 4, 6):
        save(store, step)
    start = find_start(store, where=tmp_path)
    assert start is not None
    assert start.progress == Progress(step=6, epoch=2, position=1)
    (start.checkpoint / "training_state.pt").write_bytes(b"cut off")
    earlier = find_start(CheckpointStore(tmp_path, RetainConfig()), where=tmp_path)
    assert earlier is not None
    assert earlier.progress.step == 4
    assert torch.equal(earlier.state.optimizer["state"][0]["exp_avg"], torch.full((3,), 4.0))


def test_nothing_but_damage_is_refused_and_not_begun_anew(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, RetainConfig())
    save(store, 2)
    (tmp_path / "step-00000002" / "training_state.pt").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        find_start(CheckpointStore(tmp_path, RetainConfig()), where=tmp_path)


def config_of(values: dict[str, Any], **changes: Any) -> TrainConfig:
    return validate(TrainConfig, values | changes, where="test")


def test_differing_keys_are_named_and_free_ones_are_not(values: dict[str, Any], tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    recorded.write_text(dump(config_of(values)))
    free = {"checkpoint_every": 7, "retain": {"last": 5}, "devices": 2, "threads": 1, "watchdog": {"minutes": 1.0}}
    loader = values["loader"] | {"workers": 3, "prefetch": 9}
    refuse_other(recorded, config_of(values, loader=loader, max_minutes=3.0, **free))
    with pytest.raises(ConfigError) as caught:
        refuse_other(recorded, config_of(values, seed=3, schedule={"warmup_steps": 9}))
    lines = str(caught.value).splitlines()
    assert lines[1:] == ["  schedule.warmup_steps: 2 there, 9 now", "  seed: 0 there, 3 now"]


def test_a_batch_may_be_divided_otherwise_but_stays_as_large(values: dict[str, Any], tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    recorded.write_text(dump(config_of(values)))
    half = values["loader"] | {"batch_studies": values["loader"]["batch_studies"] // 2}
    refuse_other(recorded, config_of(values, loader=half), worlds=(1, 2))
    for worlds in ((1, 1), (1, 4), (2, 1)):
        with pytest.raises(ConfigError, match=r"loader\.batch_studies: 8 there, 4 now"):
            refuse_other(recorded, config_of(values, loader=half), worlds=worlds)
