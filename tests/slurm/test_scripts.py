"""What train.sbatch makes of the way its processes end, and of Slurm: with a `vlp` that ends as the test wants it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, Job, until

ONE = ("--nodes=1", "--mem-per-cpu=10", "--cpus-per-task=1", "--gpus-per-node=0")
Submit = Callable[..., Job]
_PROGRAM = """\
#!/bin/bash
calls="$VLP_TEST_FOLDER/calls-$SLURM_PROCID"
echo "$SLURM_NODEID.$SLURM_LOCALID $MASTER_PORT GPUs=${CUDA_VISIBLE_DEVICES-} $*" >> "$calls"
ends=(${VLP_TEST_ENDS:-0})
end=${ends[$(wc -l < "$calls") - 1]}
[ "$end" != stays ] || exec sleep 600
[ "$end" != hangs-beside-a-crash ] || { [ "$SLURM_PROCID" -eq 1 ] && exit 7; trap "" TERM; sleep 600; sleep 600; }
[ "$SLURM_PROCID" -ne 0 ] || exit "$end"
"""


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Submit:
    """Submits train.sbatch with a `vlp` that notes how it was called and ends with the next word of `ends`."""
    program = tmp_path / "vlp"
    program.write_text(_PROGRAM)
    program.chmod(0o755)

    def submit(*arguments: str, ends: str = "0", options: tuple[str, ...] = ONE, **variables: object) -> Job:
        given = {"VLP_BIN": tmp_path, "VLP_TEST_FOLDER": tmp_path, "VLP_TEST_ENDS": ends} | variables
        return cluster.submit("train.sbatch", *(arguments or ("c.yaml",)), options=options, **given)

    return submit


@pytest.fixture
def calls(tmp_path: Path) -> Callable[[int], list[str]]:
    """How the process of a rank was called, over all starts."""

    def calls(rank: int = 0) -> list[str]:
        path = tmp_path / f"calls-{rank}"
        return path.read_text().splitlines() if path.exists() else []

    return calls


def running(calls: Callable[[int], list[str]], times: int = 1) -> None:
    until("the process has started", lambda: len(calls(0)) == times, limit_s=60)


def outcome(job: Job) -> tuple[str, str, str]:
    facts = job.ended(limit_s=120)
    return facts["JobState"], facts["ExitCode"].split(":")[0], facts["Restarts"]


def test_every_gpu_of_every_node_gets_a_process(cluster: Cluster, submit: Submit, calls: Callable) -> None:
    options = ("--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=2", "--mem-per-cpu=10")
    job = submit("c.yaml", "output=a b", options=options)
    job.finished()
    port = 15000 + int(job.id)
    for rank in range(4):
        # All GPUs of the node: with one each, a process could not find its own by its local rank.
        words = f"{rank // 2}.{rank % 2} {port} GPUs=0,1 train c.yaml devices=2 nodes=2 output=a b"
        assert calls(rank) == [words]
    first = job.facts["NodeList"].replace("node[", "node").split("-")[0]
    assert f"2 x 2 processes meet at {first}:{port}" in job.log


def test_a_stop_before_the_time_limit_puts_the_job_back_into_the_queue(submit: Submit, calls: Callable) -> None:
    job = submit(ends="138 0")
    assert outcome(job) == ("COMPLETED", "0", "1")
    assert len(calls(0)) == 2
    assert "start 1:" in job.log  # the second start writes behind the first, not over it
    assert "start 2:" in job.log


def test_not_for_ever(submit: Submit, calls: Callable) -> None:
    job = submit(ends="138 138", VLP_RESTARTS=0)
    assert outcome(job) == ("FAILED", "138", "0")
    assert len(calls(0)) == 1
    assert "VLP_RESTARTS allows no more" in job.log


@pytest.mark.parametrize(
    ("status", "says"), [(143, "stopped by a signal"), (130, "stopped by a signal"), (2, "see above")]
)
def test_any_other_end_is_the_end(submit: Submit, calls: Callable, status: int, says: str) -> None:
    job = submit(ends=f"{status} 0")
    assert outcome(job) == ("FAILED", str(status), "0")
    assert len(calls(0)) == 1
    assert says in job.log


@pytest.mark.parametrize(("ends", "expected"), [("1 2 0", ("COMPLETED", "0", "0")), ("1 1 3 0", ("FAILED", "3", "0"))])
def test_a_crash_is_tried_again_as_often_as_allowed(
    submit: Submit, calls: Callable, ends: str, expected: tuple[str, str, str]
) -> None:
    job = submit(ends=ends, VLP_RETRIES=2)
    assert outcome(job) == expected
    assert len(calls(0)) == 3
    assert "going on from the last checkpoint (2 of 2)" in job.log


def test_a_process_that_waits_for_one_that_is_gone_is_ended(submit: Submit, calls: Callable) -> None:
    options = ("--nodes=2", *ONE[1:])
    job = submit(ends="hangs-beside-a-crash 0", options=options, SLURM_WAIT=2, VLP_RETRIES=1)
    assert outcome(job) == ("COMPLETED", "0", "0"), job.log
    assert len(calls(0)) == 2


def test_a_node_that_is_said_to_be_down_is_replaced(cluster: Cluster, submit: Submit, calls: Callable) -> None:
    job = submit(ends="stays 0", options=("--nodes=2", *ONE[1:], "--nodelist=node[1-2]"))
    running(calls)
    cluster("scontrol", "update", "nodename=node2", "state=down", "reason=tried")
    assert outcome(job) == ("COMPLETED", "0", "1")


def test_a_person_can_stop_it_in_good_order(cluster: Cluster, submit: Submit, calls: Callable) -> None:
    job = submit(ends="stays 0")
    running(calls)
    cluster("scancel", "--signal=TERM", job.id)
    assert outcome(job) == ("FAILED", "143", "0")


def test_a_cancelled_job_stays_cancelled(cluster: Cluster, submit: Submit, calls: Callable) -> None:
    job = submit(ends="stays 0")
    running(calls)
    cluster("scancel", job.id)
    state, _, restarts = outcome(job)
    assert (state, restarts) == ("CANCELLED", "0")


def test_a_preempted_job_comes_back(cluster: Cluster, submit: Submit, calls: Callable) -> None:
    job = submit(ends="stays 0", options=(*ONE, "--nodelist=node4"))
    running(calls)
    urgent = cluster("sbatch", "--parsable", "--partition=urgent", "--exclusive", "--nodelist=node4", "--mem=10",
                     "--output=/dev/null", "--wrap=sleep 1")  # fmt: skip
    assert outcome(job) == ("COMPLETED", "0", "1")
    assert Job(cluster, urgent).ended()["JobState"] == "COMPLETED"
    assert len(calls(0)) == 2


def test_nothing_to_train_is_a_usage_line(cluster: Cluster) -> None:
    job = cluster.submit("train.sbatch", options=ONE)
    assert outcome(job) == ("FAILED", "2", "0")
    assert job.log.startswith("usage: sbatch")
