import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vlp.errors import CheckpointError
from vlp.train.saving.state import (
    AVERAGED_NAME,
    SCHEMA,
    STATE_NAME,
    Progress,
    TrainingState,
    describe_versions,
    read_averaged,
    read_state,
    snapshot,
    versions,
    write_averaged,
    write_state,
)

PROGRESS = Progress(step=7, epoch=2, position=1, consumed=48, world=4, seconds=3.5, best=0.75, best_step=6, skipped=3,
                    rollbacks=1, replaced=2)  # fmt: skip
CONFIG = {"seed": 0, "loader": {"batch_studies": 8}, "terms": [{"weight": 0.5}], "max_minutes": None}


def trained_optimizer() -> torch.optim.AdamW:
    parameter = torch.nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(0)))
    optimizer = torch.optim.AdamW([{"params": [parameter], "name": "rest", "scale": 2.0}], lr=0.1)
    (parameter**2).sum().backward()
    optimizer.step()
    return optimizer


def write(folder: Path, **changes: Any) -> None:
    parts = {
        "progress": PROGRESS,
        "optimizer_state": trained_optimizer().state_dict(),
        "scaler": {"scale": 2.0, "_growth_tracker": 4},
        "shards": {"archive": "abc"},
        "versions": {"torch": "2"},
        "config": CONFIG,
    }
    write_state(folder, **parts | changes)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path)
    state = read_state(tmp_path)
    assert isinstance(state, TrainingState)
    assert state.progress == PROGRESS
    assert (state.scaler, state.shards) == ({"scale": 2.0, "_growth_tracker": 4}, {"archive": "abc"})
    assert (state.versions, state.config) == ({"torch": "2"}, CONFIG)
    before = trained_optimizer().state_dict()
    assert state.optimizer["param_groups"] == before["param_groups"]
    assert torch.equal(state.optimizer["state"][0]["exp_avg_sq"], before["state"][0]["exp_avg_sq"])
    trained_optimizer().load_state_dict(state.optimizer)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", bytes(1000)])
def test_missing_or_damaged_state_is_one_plain_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / STATE_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match="missing or damaged") as caught:
        read_state(tmp_path)
    assert "\n" not in str(caught.value)


class Hostile:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_state_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"schema": SCHEMA, "progress": Hostile(tmp_path / "harm")}, tmp_path / STATE_NAME)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_state(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_a_state_that_lost_its_end_is_damaged(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / STATE_NAME
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_state(tmp_path)


def other_states() -> dict[str, Any]:
    whole = {name: {} for name in ("optimizer", "scaler", "shards", "versions", "config")}
    fields = {name: 0 for name in Progress.__dataclass_fields__}
    return {
        "a list": [],
        "before": {"schema": SCHEMA - 1, "progress": fields, **whole},
        "no progress": {"schema": SCHEMA, **whole},
        "another progress": {"schema": SCHEMA, "progress": {"step": 1}, **whole},
        "no optimizer": {"schema": SCHEMA, "progress": fields, **whole, "optimizer": None},
    }


@pytest.mark.parametrize("which", list(other_states()))
def test_a_state_of_another_version_is_refused(tmp_path: Path, which: str) -> None:
    torch.save(other_states()[which], tmp_path / STATE_NAME)
    with pytest.raises(CheckpointError, match="another version"):
        read_state(tmp_path)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="float64"):
        write(tmp_path, scaler={"scale": np.float64(2.0)})
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_written_is_one_plain_error(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).mkdir()
    with pytest.raises(CheckpointError, match=r"training_state\.pt: cannot be written: ") as caught:
        write(tmp_path)
    assert "\n" not in str(caught.value)


def test_averages_come_back_and_are_not_for_the_owner_alone(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(2, dtype=torch.int64)}
    assert read_averaged(tmp_path) is None
    write_averaged(tmp_path, weights)
    found = read_averaged(tmp_path)
    assert found is not None
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert torch.equal(load_file(tmp_path / AVERAGED_NAME)["a"], weights["a"])
    (tmp_path / "usual").touch()
    assert (tmp_path / AVERAGED_NAME).stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_damaged_averages_are_one_plain_error(tmp_path: Path) -> None:
    (tmp_path / AVERAGED_NAME).write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match=r"averaged\.safetensors: damaged"):
        read_averaged(tmp_path)


def test_a_snapshot_does_not_see_the_training_go_on(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    progress = Progress(step=1)
    for step in (1, 2):
        parameter.sum().backward()
        optimizer.step()
        if step == 1:
            taken = snapshot({"weights": [parameter, (parameter[1:],)], "optimizer": optimizer.state_dict(),
                              "progress": progress})  # fmt: skip
            expected = parameter.detach().clone()
            moment = optimizer.state_dict()["state"][0]["exp_avg"].clone()
        progress.step += 1
        optimizer.param_groups[0]["lr"] *= 0.5
    assert torch.equal(taken["weights"][0], expected)
    assert torch.equal(taken["weights"][1][0], expected[1:])
    assert taken["weights"][1][0].untyped_storage().nbytes() == 12  # not the whole that it is a part of
    assert not taken["weights"][0].requires_grad
    assert torch.equal(taken["optimizer"]["state"][0]["exp_avg"], moment)
    assert taken["optimizer"]["param_groups"][0]["lr"] == 0.1
    assert taken["progress"] == Progress(step=1)
    write(tmp_path, optimizer_state=taken["optimizer"], progress=taken["progress"])


def test_a_snapshot_holds_plain_numbers_and_texts() -> None:
    class Kind(enum.StrEnum):
        A = "a"

    taken = snapshot({"float": np.float64(0.5), "text": Kind.A, "flag": True, "none": None, "whole": 3})
    assert [type(value) for value in taken.values()] == [float, str, bool, type(None), int]
    assert json.dumps(taken) == '{"float": 0.5, "text": "a", "flag": true, "none": null, "whole": 3}'


def test_what_no_checkpoint_can_hold_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="Generator"):
        snapshot({"generator": torch.Generator()})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_snapshot_of_a_gpu_lies_in_page_locked_memory() -> None:
    value = torch.randn(1 << 20, device="cuda").reshape(1024, 1024).T
    expected = value.cpu()
    taken = snapshot({"a": value})["a"]
    value.zero_()
    assert taken.is_pinned()
    assert torch.equal(taken, expected)


def test_versions_name_what_decides_the_numbers_and_what_changed() -> None:
    now = versions()
    assert now["torch"] == torch.__version__.partition("+")[0] or now["torch"] == torch.__version__
    assert {"python", "vlp", "numpy"} <= now.keys()
    assert describe_versions(now, now) == ""
    changed = now | {"torch": "1.0"}
    del changed["numpy"]
    expected = f"numpy (none) before, {now['numpy']} now; torch 1.0 before, {now['torch']} now"
    assert describe_versions(changed, now) == expected
