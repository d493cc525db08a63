"""evaluate.sbatch: which checkpoint each task takes, and where its results go."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import ROOT, Cluster, Job
from vlp.config import load
from vlp.evaluate.config import EvaluateConfig

ONE = ("--mem=10", "--cpus-per-task=1", "--gpus-per-node=0")
CONFIG = "configs/evaluate/demo.yaml"
Submit = Callable[..., Job]


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Submit:
    """Submits evaluate.sbatch with a `vlp` that writes its words down, and fails for the checkpoints named bad."""
    program = tmp_path / "vlp"
    program.write_text(
        f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/"call-$(date +%s%N)"\n[[ "$*" != */bad* ]] || exit 2\n'
    )
    program.chmod(0o755)

    def submit(*arguments: object, options: tuple[str, ...] = ()) -> Job:
        return cluster.submit("evaluate.sbatch", *arguments, options=(*ONE, *options), VLP_BIN=tmp_path)

    return submit


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[], list[list[str]]]:
    """The words of each call, in order."""
    return lambda: [path.read_text().splitlines() for path in sorted(tmp_path.glob("call-*"))]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with three checkpoints, in a place with a space."""
    run = tmp_path / "my run"
    for name in ("step-00000200", "step-00000400", "final"):
        (run / "checkpoints" / name).mkdir(parents=True)
    return run


def test_one_checkpoint_is_told_as_to_the_program(submit: Submit, calls: Callable[[], list[list[str]]]) -> None:
    submit(CONFIG, "checkpoint=a b", "output=c").finished()
    assert calls() == [["evaluate", CONFIG, "checkpoint=a b", "output=c"]]


def test_tasks_of_an_array_share_the_checkpoints(
    submit: Submit, calls: Callable[[], list[list[str]]], run: Path
) -> None:
    names = ["step-00000200", "step-00000400", "final"]
    listed = [run / "checkpoints" / name for name in names]
    submit(CONFIG, "resamples=200", *listed, options=("--array=1,3", "--wait")).finished()
    asked = {}
    for verb, config, *changes in calls():
        assert verb == "evaluate"
        settings = load(EvaluateConfig, ROOT / config, changes)  # words that the program understands
        assert settings.resamples == 200
        asked[settings.checkpoint] = settings.output
    assert asked == {run / "checkpoints" / name: run / "evaluations" / name for name in ("step-00000200", "final")}


def test_without_an_array_one_job_takes_all_and_a_failure_is_told_at_the_end(
    submit: Submit, calls: Callable[[], list[list[str]]], run: Path
) -> None:
    checkpoints = run / "checkpoints"
    (checkpoints / "bad").mkdir()
    job = submit(CONFIG, checkpoints / "bad", checkpoints / "final/")
    assert job.ended()["ExitCode"] == "2:0"
    assert [call[2].removeprefix(f"checkpoint={checkpoints}/") for call in calls()] == ["bad", "final"]


@pytest.mark.parametrize(
    ("words", "options", "says"),
    [
        ((), (), "usage: sbatch"),
        ((CONFIG, "FINAL", "output=x"), (), "leave output= away"),
        ((CONFIG, "output=x", "FINAL"), (), "leave output= away"),
        ((CONFIG, "FINAL"), ("--array=2",), "task 2, and 1 checkpoints: submit with --array=1-1"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    submit: Submit, calls: Callable[[], list[list[str]]], run: Path, words: tuple, options: tuple, says: str
) -> None:
    final = str(run / "checkpoints" / "final")
    job = submit(*(word.replace("FINAL", final) for word in words), options=options)
    assert job.ended()["ExitCode"] == "2:0"
    assert says in job.log
    assert not calls()
