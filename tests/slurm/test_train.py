"""Training as a job on two nodes: whatever happens to the job, it ends as the run that nothing happened to."""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.slurm.cluster import ROOT, Cluster, Job, until
from vlp.config import validate
from vlp.ingest.pipeline import IngestConfig, ingest
from vlp.train.watching.logbook import read_metrics

CLOCK = {"images_per_s", "data_wait", "memory_gb"}
CONFIG = "configs/train/radzero.smoke.yaml"
STEPS, HELD_AT = 9, 5
SETTINGS = (
    "accelerator=cpu", "threads=1", f"max_steps={STEPS}", "checkpoint_every=2", "zero_shot.every=6",
    "loader.batch_studies=6", "loader.workers=1", "wandb.mode=disabled",
)  # fmt: skip
TWO = ("--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", "--mem-per-cpu=500")


@pytest.fixture(scope="module")
def shards(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("phantom") / "shards"
    source = {"kind": "phantom", "patients": 40, "seed": 0, "size_px": 64}
    ingest(validate(IngestConfig, {"source": source, "output": str(output), "workers": 0}, where="test"))
    return output


@dataclass(frozen=True)
class Run:
    """A run as a job, and where it lies."""

    job: Job
    folder: Path
    held: Path

    def is_held(self) -> bool:
        """Whether both processes wait at the step."""
        return all((self.held / str(rank)).exists() for rank in range(2))

    def wait_held(self) -> None:
        """Returns when both processes wait at the step."""
        until("both processes wait", lambda: self.is_held() or self.job.is_over, limit_s=200)
        assert self.is_held(), self.job.log

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def rows(self) -> list[dict[str, str]]:
        return [{name: cell for name, cell in row.items() if name not in CLOCK}
                for row in read_metrics(self.folder / "metrics.csv")]  # fmt: skip


Start = Callable[..., Run]


@pytest.fixture(scope="module")
def start(cluster: Cluster, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Submits a run; with `held`, its processes wait once at a step for a signal."""
    programs = tmp_path_factory.mktemp("program")
    program = programs / "vlp"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} {ROOT}/tests/slurm/held.py "$@"\n')
    program.chmod(0o755)

    def start(*, held: bool = True, options: tuple[str, ...] = (), **variables: object) -> Run:
        folder = tmp_path_factory.mktemp("run")
        if held:
            variables |= {"VLP_TEST_HELD": folder, "VLP_TEST_STEP": HELD_AT}
        job = cluster.submit(
            "train.sbatch", CONFIG, f"output={folder / 'run'}", f"shards={shards}", *SETTINGS,
            options=(*TWO, *options), VLP_BIN=programs, **variables,
        )  # fmt: skip
        return Run(job, folder / "run", folder)

    return start


@pytest.fixture(scope="module")
def limited(start: Start) -> Run:
    """A run whose time is up soon; submitted before all others, since waiting for that needs no processor."""
    # Slurm sends the signal up to a minute early: 20 to 80 seconds after the start.
    return start(options=("--time=3", "--signal=USR1@100"))


@pytest.fixture(scope="module")
def whole(limited: Run, start: Start) -> Run:
    """The run that nothing happens to."""
    run = start(held=False)
    facts = run.job.finished()
    assert facts["Restarts"] == "0"
    assert len(run.rows()) == STEPS
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "checkpoints" / "final" / "weights.safetensors")


def assert_same(run: Run, whole: Run) -> None:
    assert run.rows() == whole.rows()
    one, other = weights(run), weights(whole)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_it_trains_on_two_nodes(whole: Run) -> None:
    assert "1 processes meet at node" in whole.job.log
    assert whole.job.log.count('"finished": ') + whole.job.log.count("│ finished ") == 1  # one process answers
    rows = whole.rows()
    assert [row["step"] for row in rows] == [str(step) for step in range(1, STEPS + 1)]
    assert len({row["loss"] for row in rows}) > 1
    assert "0:00 left" in whole.job.log


def test_a_signal_stops_it_and_it_goes_on(cluster: Cluster, start: Start, whole: Run) -> None:
    run = start()
    run.wait_held()
    cluster("scancel", "--signal=USR1", run.job.id)
    assert run.job.finished()["Restarts"] == "1"
    assert f"stopped by SIGUSR1 at step {HELD_AT} of {STEPS}" in run.log
    assert f"continuing after step {HELD_AT}" in run.log
    assert_same(run, whole)


def test_requeued_by_a_person_it_goes_on(cluster: Cluster, start: Start, whole: Run) -> None:
    run = start()
    run.wait_held()
    cluster("scontrol", "requeue", run.job.id)
    assert run.job.finished()["Restarts"] == "1"
    assert_same(run, whole)


def test_a_node_that_loses_its_power_is_replaced(cluster: Cluster, start: Start, whole: Run) -> None:
    """The process that is left ends with an error while Slurm still believes in both nodes."""
    run = start(options=("--nodelist=node[3-4]",), SLURM_WAIT=5)
    run.wait_held()
    with cluster.powerless("node4"):
        (run.held / "go").touch()
        until("the script notices", lambda: "a node does not answer" in run.job.log, limit_s=120)
    assert run.job.finished()["Restarts"] == "1"
    assert_same(run, whole)


def test_a_process_that_is_killed_is_started_again(start: Start, whole: Run) -> None:
    run = start(VLP_RETRIES=1)
    run.wait_held()
    os.killpg(os.getpgid(int((run.held / "1").read_text())), signal.SIGKILL)
    (run.held / "go").touch()
    assert run.job.finished()["Restarts"] == "0"
    assert "going on from the last checkpoint (1 of 1)" in run.job.log
    assert_same(run, whole)


def test_out_of_time_it_goes_on(limited: Run, whole: Run) -> None:
    assert int(limited.job.finished()["Restarts"]) >= 1
    assert f"stopped by SIGUSR1 at step {HELD_AT} of {STEPS}" in limited.log
    assert_same(limited, whole)
