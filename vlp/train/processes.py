"""The processes of a run: which of them this is, and the few things that all of them must agree on.

One process trains on one device.  Either this program starts its siblings (`devices=2`), or torchrun has started all.
"""

import os
import signal
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
    """True for a process that another process of the run started: nobody waits for its answer."""

    @property
    def leads(self) -> bool:
        """True for the one process that writes."""
        return self.rank == 0

    def environment(self) -> ClusterEnvironment:
        """How Lightning finds the other processes; always named, else it would find Slurm by itself and requeue."""
        return TorchElasticEnvironment() if _by_torchrun() else LightningEnvironment()


def find_place(*, devices: int, nodes: int) -> Place:
    """The place of this process in a run on `devices` of each of `nodes`.

    Raises:
        ConfigError: if torchrun started another number of processes.
    """
    world = devices * nodes
    if _by_torchrun():
        started = int(os.environ["WORLD_SIZE"])
        if started != world:
            raise ConfigError(
                f"torchrun started {started} processes, and devices={devices} nodes={nodes} makes {world}: change one"
            )
        return Place(rank=int(os.environ["RANK"]), world=world)
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
