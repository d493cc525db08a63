"""A real Slurm on one machine: its daemons, with nodes of four cores and two pretended GPUs, in one private folder.

Several can run at once; `SLURM_CONF` says which one a command speaks to.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
_FOREIGN = ("SLURM_", "SBATCH_", "SRUN_", "VLP_", "MASTER_", "TORCHELASTIC_")
"""Variables that a test leaves behind: what a script sees is what the test and the cluster give it."""
_CONFIGURATION = """\
ClusterName=vlptest
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# What a requeued job waits for, besides the scheduler; the default is two minutes.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# Nodes have names that resolve nowhere, and all are this machine.
TaskProlog={folder}/task_prolog.sh
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MinJobAge=600
KillWait=10
SlurmctldTimeout=60
# How soon a node that is silent counts as lost; the default is five minutes.
SlurmdTimeout=15
MailProg=/bin/true
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (apt-get install slurm-wlm munge)"
    return "Slurm's daemons must be started by root" if os.geteuid() else None


@dataclass
class Cluster:
    """`nodes` nodes named node1, node2, ..."""

    folder: Path
    nodes: int = 4
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Returns when all nodes are idle."""
        for name in ("state", "spool", "run", "log", "munge", "jobs"):
            (self.folder / name).mkdir(mode=0o755)
        self._configure()
        munge = self.folder / "munge"
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self._daemon(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
        )  # fmt: skip
        self._until("munged listens", (munge / "socket").exists)
        self._daemon("slurmctld", "-D", "-c", "-i", "-f", self._file)
        for node in range(1, self.nodes + 1):
            self._daemon("slurmd", "-D", "-c", "-f", self._file, "-N", f"node{node}")
        self._until("all nodes are idle", lambda: self.states() == ["idle"] * self.nodes)

    def stop(self) -> None:
        """Ends all jobs, then the daemons, which this object started."""
        try:
            jobs = self("squeue", "--noheader", "--format=%A").split()
            if jobs:
                self("scancel", "--signal=KILL", "--full", *jobs, check=False)
                self("scancel", *jobs, check=False)
                self._until("no job is left", lambda: not self("squeue", "--noheader"), limit_s=30)
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
            for daemon in reversed(self._daemons):
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()

    def __call__(self, *command: object, check: bool = True, **variables: object) -> str:
        """What a command says, which speaks to this cluster."""
        done = subprocess.run(
            [*map(str, command)], env=self.environment(variables), capture_output=True, text=True, check=False, cwd=ROOT
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: status {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout.strip()

    def environment(self, variables: Mapping[str, object]) -> dict[str, str]:
        """That of this process, without what belongs to another job."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own |= {"PATH": _PATH, "SLURM_CONF": self._file, "OMP_NUM_THREADS": "1"}
        return own | {name: str(value) for name, value in variables.items()}

    def states(self) -> list[str]:
        """Of each node."""
        return self("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t", check=False).split()

    @contextmanager
    def powerless(self, node: str) -> Iterator[None]:
        """Kills a node and all that runs on it, without a word to anybody; after the block it is back."""
        daemon = next(each for each in self._daemons if node in each.args)
        daemon.kill()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                there = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                if {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self._file}"} <= set(there):
                    self._kill_with_manager(process)
        daemon.wait()
        try:
            yield
        finally:
            self._daemons.remove(daemon)
            self._daemon("slurmd", "-D", "-f", self._file, "-N", node)

    @staticmethod
    def _kill_with_manager(process: Path) -> None:
        parent = Path("/proc", (process / "stat").read_text().rpartition(")")[2].split()[1])
        for each in (parent, process):
            if each == process or (each / "cmdline").read_bytes().startswith(b"slurmstepd"):
                os.kill(int(each.name), signal.SIGKILL)

    def submit(self, script: str, *arguments: object, options: Sequence[str] = (), **variables: object) -> "Job":
        """Submits a script of slurm/ as a person would, with `options` before it and `variables` in the environment."""
        output = f"--output={self.folder}/jobs/%j.log"
        command = ("sbatch", "--parsable", output, *options, f"slurm/{script}", *arguments)
        return Job(self, self(*command, **variables))

    def _configure(self) -> None:
        host, ports = socket.gethostname().split(".")[0], _free_ports(self.nodes + 1)
        lines = [_CONFIGURATION.format(host=host, folder=self.folder, ports=ports)]
        lines += [
            f"NodeName=node{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs=4 RealMemory=16000 "
            "Gres=gpu:2\n"
            for node in range(1, self.nodes + 1)
        ]
        Path(self._file).write_text("".join(lines))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        devices = (f"NodeName=node[1-{self.nodes}] Name=gpu File=/dev/{name}\n" for name in ("null", "zero"))
        (self.folder / "gres.conf").write_text("".join(devices))
        prolog = self.folder / "task_prolog.sh"
        prolog.write_text("#!/bin/bash\necho export MASTER_ADDR=127.0.0.1\n")
        prolog.chmod(0o755)

    @property
    def _file(self) -> str:
        return f"{self.folder}/slurm.conf"

    def _daemon(self, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{program}-{len(self._daemons)}.err").open("wb") as errors:
            self._daemons.append(
                subprocess.Popen(
                    [shutil.which(program, path=_PATH) or program, *arguments],
                    env=self.environment({}), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors,
                )
            )  # fmt: skip

    def _until(self, what: str, happens: Callable[[], bool], *, limit_s: float = 60.0) -> None:
        try:
            until(what, happens, limit_s=limit_s)
        except TimeoutError as error:
            logs = [f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}"
                    for path in sorted((self.folder / "log").iterdir())]  # fmt: skip
            raise AssertionError(f"{error}\n" + "\n".join(logs)) from None


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    cluster: Cluster
    id: str

    @property
    def facts(self) -> dict[str, str]:
        """What Slurm says of it: JobState, ExitCode, Restarts, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.cluster("scontrol", "--oneliner", "show", "job", self.id)))

    @property
    def log(self) -> str:
        """What it and its tasks have printed, over all its starts."""
        path = self.cluster.folder / "jobs" / f"{self.id}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def is_over(self) -> bool:
        """Whether it is over for good; a job that waits for its next start is not."""
        return self.facts["JobState"] in _OVER

    def ended(self, *, limit_s: float = 240.0) -> dict[str, str]:
        """The facts of the job once it is over for good."""
        try:
            until(f"job {self.id} ends", lambda: self.is_over, limit_s=limit_s)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.facts}\n{self.log}") from None
        return self.facts

    def finished(self) -> dict[str, str]:
        """The facts of the job once it is over; it must have come to its end."""
        facts = self.ended()
        assert (facts["JobState"], facts["ExitCode"]) == ("COMPLETED", "0:0"), self.log
        return facts


def until(what: str, happens: Callable[[], bool], *, limit_s: float) -> None:
    """Looks five times a second."""
    end = time.monotonic() + limit_s
    while not happens():
        if time.monotonic() > end:
            raise TimeoutError(f"after {limit_s:g} s: not yet that {what}")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    listening = [socket.socket() for _ in range(count)]
    for each in listening:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in listening]
    for each in listening:
        each.close()
    return ports
