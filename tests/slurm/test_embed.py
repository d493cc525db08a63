"""embed.sbatch: which part each task makes, and what becomes of the words behind the script's name."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import make_study
from tests.slurm.cluster import Cluster, Job
from vlp.data.writer import ShardWriter
from vlp.retrieval.store import VectorStore

ONE = ("--mem=10", "--cpus-per-task=1", "--gpus-per-node=0")
WORDS = ("my run", "shards", "vectors", "--kinds", "global,view")
Submit = Callable[..., Job]


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Submit:
    """Submits embed.sbatch with a `vlp` that writes its words down."""
    program = tmp_path / "vlp"
    program.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/"call-${{SLURM_ARRAY_TASK_ID:-0}}"\n')
    program.chmod(0o755)

    def submit(*arguments: object, options: tuple[str, ...] = (), **variables: object) -> Job:
        return cluster.submit("embed.sbatch", *arguments, options=(*ONE, *options), VLP_BIN=tmp_path, **variables)

    return submit


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], dict[str, list[str]]]:
    """The words by task; task 0 is a job without an array."""
    return lambda: {path.name[5:]: path.read_text().splitlines() for path in tmp_path.glob("call-*")}


def test_without_an_array_it_makes_all(submit: Submit, calls: Callable[[], dict[str, list[str]]]) -> None:
    submit(*WORDS).finished()
    assert calls() == {"0": ["embed", *WORDS]}


def test_each_task_makes_its_part(submit: Submit, calls: Callable[[], dict[str, list[str]]]) -> None:
    submit(*WORDS, options=("--array=1-3", "--wait")).finished()
    assert calls() == {str(task): ["embed", *WORDS, "--part", f"{task}/3"] for task in (1, 2, 3)}


def test_some_tasks_again(submit: Submit, calls: Callable[[], dict[str, list[str]]]) -> None:
    submit(*WORDS, options=("--array=3,5", "--wait"), VLP_PARTS=16).finished()
    assert calls() == {task: ["embed", *WORDS, "--part", f"{task}/16"] for task in ("3", "5")}


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [(("run", "shards"), (), "usage: sbatch"), (WORDS, ("--array=2-2",), "name the number of parts")],
)
def test_what_cannot_be_meant_is_refused(
    submit: Submit, calls: Callable[[], dict[str, list[str]]], words: tuple, options: tuple, says: str
) -> None:
    job = submit(*words, options=options)
    assert job.ended()["ExitCode"] == "2:0"
    assert says in job.log
    assert not calls()


def test_tasks_fill_one_store_that_the_last_of_them_completes(cluster: Cluster, tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", "similarity_attention")
    with ShardWriter(tmp_path / "shards", samples_per_shard=3, image_format="png") as writer:
        for number in range(12):
            writer.write(make_study(number))
    program = tmp_path / "vlp"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -c "from vlp.cli.main import main; main()" "$@"\n')
    program.chmod(0o755)
    words = (tmp_path / "model", tmp_path / "shards", tmp_path / "vectors", "--kinds", "view,finding")
    options = ("--mem=500", *ONE[1:], "--array=1-2", "--wait")
    cluster.submit("embed.sbatch", *words, options=options, VLP_BIN=tmp_path).finished()
    store = VectorStore.open(tmp_path / "vectors")
    assert store.facts.counts == {"view": 12, "finding": 24}
    assert '"parts":[{' in "".join((tmp_path / "vectors" / "store.json").read_text().split())
