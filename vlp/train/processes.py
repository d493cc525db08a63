"""The processes of a run: which of them this is, and the few things that all of them must agree on.

One process trains on one device.  Either this program starts its siblings (`devices=2`), or torchrun or Slurm's srun
has started all.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import ClusterEnvironment, LightningEnvironment, TorchElasticEnvironment

from vlp.errors import BackendError, ConfigError

_LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this process stands among the processes of a run."""

    rank: int = 0
    """Counted over all nodes; 0 writes the files."""
    world: int = 1
    launched: bool = False
    """True for a process whose answer nobody waits for: another process of the run started it, or srun started it
    beside the one of rank 0."""

    @property
    def leads(self) -> bool:
        """True for the one process that writes."""
        return self.rank == 0

    def environment(self) -> ClusterEnvironment:
        """How Lightning finds the other processes; always named, else it would find Slurm by itself and requeue."""
        if _by_torchrun():
            return TorchElasticEnvironment()
        return SlurmStep() if _tasks_of_step() > 1 else LightningEnvironment()


class SlurmStep(ClusterEnvironment):
    """The processes that one srun started, as Slurm counts them; requeueing stays with the job's script.

    Lightning's own environment would take the job's variables for the step's, and save inside a signal handler.
    """

    @property
    def creates_processes_externally(self) -> bool:
        """Srun has started all."""
        return True

    @property
    def main_address(self) -> str:
        """Where the process of rank 0 runs."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """On which it listens."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Whether this process is one of several that srun started."""
        return _tasks_of_step() > 1

    def world_size(self) -> int:
        """All processes of the step."""
        return _tasks_of_step()

    def set_world_size(self, size: int) -> None:
        """Nothing: Slurm has decided."""

    def global_rank(self) -> int:
        """As Slurm counts, whatever way it dealt the processes to the nodes."""
        return int(os.environ["SLURM_PROCID"])

    def set_global_rank(self, rank: int) -> None:
        """Nothing: Slurm has decided."""

    def local_rank(self) -> int:
        """Among the processes of this node; the number of its GPU."""
        return int(os.environ["SLURM_LOCALID"])

    def node_rank(self) -> int:
        """Of this node in the step."""
        return int(os.environ["SLURM_NODEID"])


def find_place(*, devices: int, nodes: int) -> Place:
    """The place of this process in a run on `devices` of each of `nodes`.

    Inside a step of several tasks Slurm has started all of them.  A step of one task (a shell that `srun --pty` gave)
    is a machine like any other, and so are the shell of `salloc` and the script of a job: they are no steps, though
    they have many of a step's variables.

    Raises:
        ConfigError: if torchrun or Slurm started another number of processes, or Slurm's cannot find each other.
    """
    world = devices * nodes
    if _by_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if started != world:
            raise ConfigError(
                f"torchrun started {started} processes, and devices={devices} nodes={nodes} makes {world}: change one"
            )
        return Place(rank=int(os.environ["RANK"]), world=world)
    tasks = _tasks_of_step()
    if tasks > 1 or (tasks == 1 and nodes > 1 and "NODE_RANK" not in os.environ):
        _refuse_another_step(devices=devices, nodes=nodes)
        rank = int(os.environ["SLURM_PROCID"])
        return Place(rank=rank, world=world, launched=rank > 0)
    if world == 1:
        return Place()
    local, node = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "NODE_RANK"))
    return Place(rank=node * devices + local, world=world, launched="LOCAL_RANK" in os.environ)


@contextmanager
def standing_at(place: Place) -> Iterator[None]:
    """Lets `log.rank` know the place inside the block; what launching left in the environment goes with it."""
    before = {name: os.environ.get(name) for name in _LAUNCH_VARIABLES}
    if place.world > 1:
        os.environ["RANK"] = str(place.rank)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def ending_together(launcher: Any, place: Place) -> Iterator[None]:
    """Where the block fails, the processes that this one started end with it.

    Args:
        launcher: Lightning's, or None.
        place: Of this process.

    Raises:
        BackendError: in the place of what torch says when another process has gone.
    """
    try:
        yield
    except BaseException as error:
        if children := getattr(launcher, "procs", []):
            # They may be waiting for this process in a collective, where they hear no gentler signal.
            launcher.kill(signal.SIGKILL)
            children.clear()  # Lightning's observer would take their end for a reason to kill this process
        if place.world > 1 and lost_others(error):
            raise BackendError(
                f"process {place.rank} of the run lost another one; look at that one's error, and start again with the "
                "same command"
            ) from error
        raise


@dataclass(slots=True)
class Processes:
    """The processes of a run, once they are connected; a process alone agrees with itself.

    What they say to each other here lies in the memory of the machine and never waits for a GPU.
    """

    _own_group: Any = field(default=None, init=False)

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

    def largest(self, *numbers: float) -> list[float]:
        """The largest of each number over all processes."""
        if not self.several:
            return list(numbers)
        values = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self._group())
        return values.tolist()

    def wait(self) -> None:
        """Returns when all processes have come here."""
        self.largest(0.0)

    def collect(self, text: str) -> list[str]:
        """The texts of all processes, by rank."""
        if not self.several:
            return [text]
        own = text.encode()
        longest = int(self.largest(len(own))[0])
        sent = torch.zeros(longest + 8, dtype=torch.uint8)
        sent[:8] = torch.frombuffer(bytearray(len(own).to_bytes(8, "little")), dtype=torch.uint8)
        if own:
            sent[8 : 8 + len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        received = [torch.empty_like(sent) for _ in range(dist.get_world_size())]
        dist.all_gather(received, sent, group=self._group())
        lengths = [int.from_bytes(bytes(part[:8].tolist()), "little") for part in received]
        return [bytes(part[8 : 8 + n].tolist()).decode() for part, n in zip(received, lengths, strict=True)]

    def part(self) -> None:
        """Ends the connection, so that another run in this process can make its own."""
        if self.several:
            dist.destroy_process_group()
        self._own_group = None

    def _group(self) -> Any:
        # All processes come here for the first time at the same point, as making a group demands.
        if self._own_group is None:
            gloo = dist.get_backend() == "gloo"
            self._own_group = dist.group.WORLD if gloo else dist.new_group(backend="gloo")
        return self._own_group


def lost_others(error: BaseException) -> bool:
    """Whether an error says that another process has gone away in the middle of a collective."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def _by_torchrun() -> bool:
    return bool(TorchElasticEnvironment.detect())


def _tasks_of_step() -> int:
    """How many tasks the Slurm step has that this process is one of; 0 outside a step."""
    if "SLURM_STEP_ID" not in os.environ or "SLURM_PROCID" not in os.environ:
        return 0
    # Not SLURM_NTASKS: an interactive step keeps that of its job.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "0"))


def _refuse_another_step(*, devices: int, nodes: int) -> None:
    """Raises a `ConfigError` if the step's tasks cannot be the processes of a run on so many devices and nodes."""
    started = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    needed = f"{devices}(x{nodes})" if nodes > 1 else f"{devices}"  # as Slurm writes it
    if started != needed:
        raise ConfigError(
            f"srun started {started} tasks on its nodes, and devices={devices} nodes={nodes} needs {needed}: change "
            f"them, or ask Slurm for --nodes={nodes} --ntasks-per-node={devices}"
        )
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal():
        raise ConfigError(
            "MASTER_ADDR and MASTER_PORT must say where the processes of the step meet: the name of its first node and "
            "a free port there; slurm/train.sbatch sets them"
        )
    try:
        socket.getaddrinfo(address, int(port))
    except OSError:
        raise ConfigError(
            f"MASTER_ADDR={address}: this node does not know the name; have the job's script set MASTER_ADDR to an "
            "address of the step's first node"
        ) from None
