from pathlib import Path
from typing import Any

import pytest
import torch

from vlp.config import dump, validate
from vlp.data.manifest import shards_digest
from vlp.errors import CheckpointError, ConfigError
from vlp.model.checkpoint import take_place
from vlp.train.config import TrainConfig
from vlp.train.resume import (
    STATE_NAME,
    Progress,
    latest,
    load_state,
    refuse_other,
    save_state,
)


def trained_optimizer() -> torch.optim.AdamW:
    parameter = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "rest", "scale": 2.0}], lr=0.1)
    (parameter**2).sum().backward()
    optimizer.step()
    return optimizer


def save(folder: Path, **changes: Any) -> torch.optim.AdamW:
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = trained_optimizer()
    progress = Progress(step=7, epoch=2, position=1, seconds=3.5, best=0.75, best_step=6)
    save_state(
        folder, **{"progress": progress, "optimizer": optimizer, "scaler": {"scale": 2.0}, "shards": "abc"} | changes
    )
    return optimizer


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    optimizer = save(tmp_path)
    state = load_state(tmp_path)
    assert state["progress"] == Progress(step=7, epoch=2, position=1, seconds=3.5, best=0.75, best_step=6)
    assert state["scaler"] == {"scale": 2.0}
    assert state["shards"] == "abc"
    before, after = optimizer.state_dict(), state["optimizer"]
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["exp_avg_sq"], before["state"][0]["exp_avg_sq"])


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_missing_damaged_or_hostile_state_is_one_plain_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / STATE_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_state(tmp_path)


@pytest.mark.parametrize("state", [[], {"schema": 2}, {"schema": 1}, {"schema": 1, "progress": {"step": 1}}])
def test_a_state_of_another_version_is_refused(tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / STATE_NAME)
    with pytest.raises(CheckpointError, match="another version"):
        load_state(tmp_path)


def test_a_new_folder_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target, building = tmp_path / "last", tmp_path / ".last.building"
    for number in (1, 2):
        save(building, shards=str(number))
        take_place(building, target)
        assert load_state(target)["shards"] == str(number)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, building = tmp_path / "last", tmp_path / ".last.building"
    save(target, shards="old")
    save(building, shards="new")
    renames = []

    def rename_once(source: Path, destination: Path) -> None:
        if renames:
            raise KeyboardInterrupt
        renames.append(source)
        source.rename(destination)

    monkeypatch.setattr("vlp.model.checkpoint.os.rename", rename_once)
    with pytest.raises(KeyboardInterrupt):
        take_place(building, target)
    monkeypatch.undo()
    found = latest(target)
    assert found is not None
    assert load_state(found)["shards"] == "old"
    take_place(building, target)
    found = latest(target)
    assert found == target
    assert load_state(found)["shards"] == "new"


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    (tmp_path / "last").mkdir()
    assert latest(tmp_path / "last") is None
    assert latest(tmp_path / "other") is None


def test_a_checkpoint_without_its_state_is_damaged_and_not_nothing(tmp_path: Path) -> None:
    save(tmp_path / "last")
    (tmp_path / "last" / "card.json").write_text("{}")
    (tmp_path / "last" / STATE_NAME).unlink()
    found = latest(tmp_path / "last")
    assert found == tmp_path / "last"
    with pytest.raises(CheckpointError, match="missing or damaged"):
        load_state(found)


def test_a_state_that_cannot_be_written_is_one_plain_error(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).mkdir()
    with pytest.raises(CheckpointError, match="cannot be written"):
        save(tmp_path)


def test_differing_keys_are_named_and_free_ones_are_not(values: dict[str, Any], tmp_path: Path) -> None:
    recorded = tmp_path / "config.yaml"
    recorded.write_text(dump(validate(TrainConfig, values, where="test")))
    free = {"max_minutes": 3.0, "checkpoint_every": 7, "wandb": {"mode": "offline"}, "shards": "elsewhere"}
    free["loader"] = values["loader"] | {"workers": 5}
    refuse_other(recorded, validate(TrainConfig, values | free, where="test"))
    changed = values | {"seed": 3, "terms": [{"objective": {"kind": "clip"}, "on": "pooled"}]}
    with pytest.raises(ConfigError) as caught:
        refuse_other(recorded, validate(TrainConfig, changed, where="test"))
    lines = str(caught.value).splitlines()
    assert lines[1] == "  seed: 0 there, 3 now"
    assert any(line.startswith("  terms.0.objective.kind: (none) there, clip now") for line in lines)


def test_digest_follows_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    first = shards_digest(tmp_path)
    (tmp_path / "manifest.json").write_text("{ }")
    assert shards_digest(tmp_path) != first
