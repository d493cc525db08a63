"""Runs on several processes: they agree, they are one run with a larger batch, and they stop and go on together."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from safetensors.torch import load_file

from vlp import log
from vlp.config import dump, validate
from vlp.errors import BackendError, ConfigError
from vlp.model import checkpoint
from vlp.train.boundary import StepBoundary
from vlp.train.config import TrainConfig
from vlp.train.processes import Place, Processes, SlurmStep, ending_together, find_place, lost_others, standing_at
from vlp.train.run import train
from vlp.train.signals import Stopped

Values = dict[str, Any]
Run = Callable[[int, Callable[[int], None]], list[int | None]]
CLOCK = {"images_per_s", "data_wait", "memory_gb"}


@pytest.fixture
def several(still_values: Values) -> Values:
    """Two processes of four studies each, with every term; what they see is the same in any number of processes."""
    nce = {"kind": "multi_positive_nce"}
    return still_values | {
        "loader": {"batch_studies": 4, "workers": 0, "images_per_study": "all", "augment": None, "flips": {}},
        "terms": [{"objective": nce, "on": "pooled", "weight": 0.5}, {"objective": nce, "on": "image_image"}],
        "text_weights": "distinct", "max_steps": 7, "checkpoint_every": 2, "record_samples": True,
        "zero_shot": {"every": 2, "min_positives": 1}, "accelerator": "cpu", "devices": 2,
    }  # fmt: skip


def config_of(values: Values, **changes: Any) -> TrainConfig:
    return validate(TrainConfig, values | changes, where="test")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def samples(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "samples.parquet")


def same_weights(first: Path, second: Path) -> bool:
    one, other = (load_file(folder / "checkpoints" / "final" / "weights.safetensors") for folder in (first, second))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def at_step(step: int, how: Callable[[], None]) -> None:
    """In a process of its own: makes `how` happen while `step` is being trained, before its boundary."""
    boundary = StepBoundary.on_train_batch_end

    def wrapped(self: StepBoundary, *arguments: Any) -> None:
        if self.progress.step + 1 == step:
            how()
        boundary(self, *arguments)

    StepBoundary.on_train_batch_end = wrapped  # type: ignore[method-assign]


@pytest.fixture
def whole(several: Values, by_torchrun: Run, tmp_path: Path) -> Path:
    config = config_of(several, output=str(tmp_path / "whole"))
    assert by_torchrun(2, lambda rank: train(config) and None) == [0, 0]
    return tmp_path / "whole"


def test_two_processes_are_one_with_a_doubled_batch(several: Values, whole: Path, tmp_path: Path) -> None:
    loader = several["loader"] | {"batch_studies": 8}
    one = train(config_of(several, output=str(tmp_path / "one"), devices=1, loader=loader))
    assert len(rows(one)) == 7
    for row, other in zip(rows(one), rows(whole), strict=True):
        assert row.keys() == other.keys()
        for name in row:
            if row[name]:
                assert float(other[name]) == pytest.approx(float(row[name]), rel=1e-5), (row["step"], name)
    assert samples(whole).equals(samples(one))
    final = [folder / "checkpoints" / "final" for folder in (one, whole)]
    for name, value in load_file(final[0] / "weights.safetensors").items():
        # Adam divides by the size of a gradient: where that is rounding alone, so is its step.
        if not name.endswith("key.bias"):
            other = load_file(final[1] / "weights.safetensors")[name]
            torch.testing.assert_close(other, value, rtol=1e-3, atol=1e-4, msg=name)
    cards = [checkpoint.read_card(folder) for folder in final]
    assert cards[0]["studies_per_batch"] == cards[1]["studies_per_batch"] == 8
    assert [cards[0][key] for key in ("step", "epochs")] == [cards[1][key] for key in ("step", "epochs")]


def test_a_signal_to_one_process_stops_all_and_they_go_on_bit_for_bit(
    several: Values, whole: Path, by_torchrun: Run
) -> None:
    config = config_of(several)

    def stopped(rank: int) -> None:
        if rank == 1:
            at_step(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match="signal 15"):
            train(config)

    assert by_torchrun(2, stopped) == [0, 0]
    assert [row["step"] for row in rows(config.output)] == ["1", "2", "3"]
    assert "stopped by SIGTERM at step 3" in (config.output / "log.txt").read_text()
    assert not (config.output / "checkpoints" / "final").exists()
    assert by_torchrun(2, lambda rank: train(config) and None) == [0, 0]
    assert rows(config.output) == rows(whole)
    assert samples(config.output).equals(samples(whole))
    assert same_weights(config.output, whole)


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_with_one_plain_error(
    several: Values, whole: Path, by_torchrun: Run, killed: int
) -> None:
    config = config_of(several)

    def work(rank: int) -> None:
        if rank == killed:
            at_step(6, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(BackendError, match=f"process {rank} of the run lost another one"):
            train(config)

    assert by_torchrun(2, work) == [-signal.SIGKILL if rank == killed else 0 for rank in (0, 1)]
    assert by_torchrun(2, lambda rank: train(config) and None) == [0, 0]
    assert rows(config.output) == rows(whole)
    assert samples(config.output).equals(samples(whole))
    assert same_weights(config.output, whole)


def test_one_command_starts_all_processes_and_answers_once(several: Values, whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(dump(config_of(several)))
    command = [str(Path(sys.executable).parent / "vlp"), "train", str(path), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 7
    output = Path(several["output"])
    assert rows(output) == rows(whole)
    assert same_weights(output, whole)


def test_what_one_process_cannot_do_ends_all(several: Values, by_torchrun: Run) -> None:
    config = config_of(several, optimizer={"lr": 1e30}, gradient_clip=0.0, schedule={"warmup_steps": 0},
                       guard={"patience": 2, "rollbacks": 0})  # fmt: skip

    def work(rank: int) -> None:
        with pytest.raises((ConfigError, BackendError), match=r"finite.* at step|lost another one"):
            train(config)

    assert by_torchrun(2, work) == [0, 0]


def test_batch_statistics_of_a_cnn_are_those_of_the_process_that_leads(several: Values, by_torchrun: Run) -> None:
    several["model"] = several["model"] | {"image": {"kind": "timm", "name": "resnet10t", "stage": 1}}
    config = config_of(several, max_steps=3)
    assert by_torchrun(2, lambda rank: train(config) and None) == [0, 0]
    text = (config.output / "log.txt").read_text()
    assert text.count("each process takes the statistics of its own images") == 1
    saved = load_file(config.output / "checkpoints" / "final" / "weights.safetensors")
    assert {int(value) for name, value in saved.items() if name.endswith("num_batches_tracked")} == {3}


def test_dropout_differs_between_processes(several: Values, values: Values, by_torchrun: Run, tmp_path: Path) -> None:
    config = config_of(several | {"model": values["model"]}, max_steps=2)

    def work(rank: int) -> None:
        from vlp.train.module import PretrainingModule

        start = PretrainingModule.on_train_batch_start

        def wrapped(self: PretrainingModule, *arguments: Any) -> None:
            start(self, *arguments)
            with (tmp_path / f"drawn-{rank}").open("a") as file:
                file.write(f"{torch.initial_seed()} ")

        PretrainingModule.on_train_batch_start = wrapped  # type: ignore[method-assign]
        train(config)

    assert by_torchrun(2, work) == [0, 0]
    drawn = [seed for rank in (0, 1) for seed in (tmp_path / f"drawn-{rank}").read_text().split()]
    assert len(set(drawn)) == len(drawn) == 4


def test_processes_agree_on_the_largest_and_know_each_others_words(connected: Run, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        processes = Processes()
        assert processes.several
        assert processes.largest(rank, -rank, 0.5) == [2.0, 0.0, 0.5]
        words = processes.collect(["", "näher", "x" * 1000][rank])
        assert words == ["", "näher", "x" * 1000]
        assert processes.collect("") == ["", "", ""]
        (tmp_path / f"here-{rank}").touch()
        processes.wait()
        assert all((tmp_path / f"here-{other}").exists() for other in range(3))
        processes.part()
        assert not dist.is_initialized()
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/again", rank=rank, world_size=3)
        assert processes.largest(rank) == [2.0]

    assert connected(3, work) == [0, 0, 0]


def test_a_process_alone_agrees_with_itself() -> None:
    processes = Processes()
    assert not processes.several
    assert processes.largest(1.5, -2.0) == [1.5, -2.0]
    assert processes.collect("word") == ["word"]
    processes.wait()
    processes.part()


def step(layout: str, *, procid: int, localid: int = 0, nodeid: int = 0) -> Values:
    """What a task finds in its environment inside a step, as Slurm 22.05 was seen to set it."""
    counts = [part.rstrip(")").split("(x") for part in layout.split(",")]
    tasks = sum(int(each) * int(*times or "1") for each, *times in counts)
    return {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(tasks),
            "SLURM_STEP_TASKS_PER_NODE": layout, "SLURM_PROCID": str(procid), "SLURM_LOCALID": str(localid),
            "SLURM_NODEID": str(nodeid), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "15007"}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "place"),
    [
        ({}, 1, 1, Place()),
        ({"SLURM_PROCID": "3"}, 1, 1, Place()),
        ({}, 4, 1, Place(world=4)),
        ({"LOCAL_RANK": "2"}, 4, 1, Place(rank=2, world=4, launched=True)),
        ({"NODE_RANK": "1"}, 4, 2, Place(rank=4, world=8)),
        ({"NODE_RANK": "1", "LOCAL_RANK": "3"}, 4, 2, Place(rank=7, world=8, launched=True)),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, 4, 2, Place(rank=5, world=8)),
        # A job's script and the shell of salloc have variables of Slurm, and are no step.
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 4, 1, Place(world=4)),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, 1, 1, Place()),
        # A step of one task: a shell (which has the job's number of tasks), or one that starts torchrun on each node.
        (step("1", procid=0) | {"SLURM_NTASKS": "8"}, 4, 1, Place(world=4)),
        (step("1", procid=0) | {"LOCAL_RANK": "2"}, 4, 1, Place(rank=2, world=4, launched=True)),
        (
            step("1(x2)", procid=1) | {"TORCHELASTIC_RUN_ID": "a", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
            1,
            2,
            Place(rank=1, world=2),
        ),
    ],
)
def test_a_process_finds_its_place(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: int, nodes: int, place: Place
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = find_place(devices=devices, nodes=nodes)
    assert found == place
    assert found.leads == (place.rank == 0)
    elastic = "TORCHELASTIC_RUN_ID" in environment
    assert type(found.environment()) is (TorchElasticEnvironment if elastic else LightningEnvironment)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "place"),
    [
        (step("2", procid=0), 2, 1, Place(world=2)),
        (step("2", procid=1, localid=1), 2, 1, Place(rank=1, world=2, launched=True)),
        (step("4(x2)", procid=6, localid=2, nodeid=1), 4, 2, Place(rank=6, world=8, launched=True)),
        # --distribution=cyclic deals tasks out node by node: the rank is Slurm's, not node by node.
        (step("4(x2)", procid=1, localid=0, nodeid=1), 4, 2, Place(rank=1, world=8, launched=True)),
    ],
)
def test_a_task_of_a_step_finds_its_place(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: int, nodes: int, place: Place
) -> None:
    for name, value in (environment | {"SLURM_NTASKS": "99", "SLURM_NTASKS_PER_NODE": "99"}).items():
        monkeypatch.setenv(name, value)
    found = find_place(devices=devices, nodes=nodes)
    assert found == place
    there = found.environment()
    assert type(there) is SlurmStep
    assert there.creates_processes_externally
    assert there.detect()
    there.set_world_size(3)  # as Lightning does, by a rule of its own
    there.set_global_rank(2)
    assert (there.world_size(), there.global_rank()) == (place.world, place.rank)
    assert [str(number) for number in (there.local_rank(), there.node_rank())] == [
        environment[name] for name in ("SLURM_LOCALID", "SLURM_NODEID")
    ]
    assert (there.main_address, there.main_port) == ("127.0.0.1", 15007)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (
            step("2(x2)", procid=0),
            1,
            1,
            r"srun started 2\(x2\) tasks on its nodes, and devices=1 nodes=1 needs 1: change",
        ),
        (step("3,1", procid=3, nodeid=1), 2, 2, r"3,1 .* needs 2\(x2\): .* --nodes=2 --ntasks-per-node=2"),
        (step("4", procid=3), 2, 2, r"started 4 .* needs 2\(x2\)"),
        (step("1", procid=0), 1, 2, r"started 1 .* needs 1\(x2\)"),
        (step("2", procid=0) | {"MASTER_ADDR": ""}, 2, 1, "MASTER_ADDR and MASTER_PORT must say .*train.sbatch"),
        (step("2", procid=0) | {"MASTER_PORT": "auto"}, 2, 1, "MASTER_ADDR and MASTER_PORT must say"),
        (
            step("2", procid=0) | {"MASTER_ADDR": "no-such-node.invalid"},
            2,
            1,
            "MASTER_ADDR=no-such-node.invalid: this ",
        ),
    ],
)
def test_a_step_that_cannot_be_the_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], devices: int, nodes: int, message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        find_place(devices=devices, nodes=nodes)


def test_another_number_of_processes_than_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun started 2 processes, and devices=1 nodes=1 makes 1"):
        find_place(devices=1, nodes=1)


def test_only_the_leading_process_speaks_and_the_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "7")
    with standing_at(Place(rank=3, world=4)):
        assert log.rank() == 3
        os.environ["LOCAL_RANK"] = "0"  # as Lightning leaves it
        del os.environ["WORLD_SIZE"]
    assert log.rank() == 0
    assert "LOCAL_RANK" not in os.environ
    assert os.environ["WORLD_SIZE"] == "7"


def test_what_one_process_started_ends_with_it() -> None:
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])]

    class Launcher:
        """As Lightning's: its observer watches this very list."""

        def __init__(self) -> None:
            self.procs = list(children)

        def kill(self, number: int) -> None:
            for process in self.procs:
                process.send_signal(number)

    launcher = Launcher()
    with pytest.raises(ZeroDivisionError), ending_together(launcher, Place(world=2)):
        raise ZeroDivisionError
    assert [child.wait(10) for child in children] == [-signal.SIGKILL]
    assert launcher.procs == []
    with pytest.raises(ZeroDivisionError), ending_together(None, Place()):
        raise ZeroDivisionError


def test_a_lost_connection_is_told_from_other_errors() -> None:
    assert lost_others(RuntimeError("[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer"))
    assert lost_others(dist.DistBackendError("NCCL communicator was aborted"))
    assert not lost_others(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_others(ValueError("gloo"))
