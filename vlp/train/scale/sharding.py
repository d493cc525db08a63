"""Several processes hold one model: each all of it, or each a share of its towers.

Sharded (FSDP2, `torch.distributed.fsdp.fully_shard`; the idea is ZeRO's, arXiv 1910.02054), a process keeps its share
of the weights, gradients and optimizer state of every block of a tower that learns, and has a block whole only while it
runs.  What is small stays whole everywhere: align layers, heads, scorer; and so do frozen towers, which have neither
gradient nor optimizer state and which processes may ask at different times.

Checkpoints hold whole tensors, so a run goes on with another number of processes, sharded or not.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import convert_conv2d_weight_memory_format
from typing_extensions import override

from vlp.errors import ConfigError
from vlp.model.model import VisionLanguageModel

StrategyName = Literal["ddp", "fsdp"]


def make_strategy(kind: StrategyName, *, world: int, idle: Sequence[str] = (), precision: str = "32") -> Strategy | str:
    """How Lightning spreads the model over `world` processes.

    Args:
        kind: ddp or fsdp.
        world: How many processes there are; one alone holds everything.
        idle: Names of what learns and has no part in any score; every step looks for it only where there is some.
        precision: Of the towers' arithmetic.

    Raises:
        ConfigError: for fsdp with 16-mixed, whose scale of the loss each process would change by its own share.
    """
    if kind == "fsdp" and precision == "16-mixed":
        raise ConfigError("strategy=fsdp: precision=16-mixed does not go with it; use bf16-mixed or 32")
    if world == 1:
        return "auto"
    return ShardedStrategy() if kind == "fsdp" else DDPStrategy(find_unused_parameters=bool(idle))


class ShardedStrategy(DDPStrategy):
    """Towers sharded; the gradient of the rest averaged at the end of each backward pass.

    The module that is trained holds its `VisionLanguageModel` as `model`.
    """

    @override
    def configure_ddp(self) -> None:
        """Shards in the place of wrapping, before there is an optimizer."""
        assert self.lightning_module is not None
        shard_towers(self._whole)

    @override
    def post_backward(self, closure_loss: Tensor) -> None:
        """Averages the gradients that sharding does not."""
        average_gradients(self._whole.parameters())

    @property
    def _whole(self) -> VisionLanguageModel:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, VisionLanguageModel)
        return model


def shard_towers(model: VisionLanguageModel) -> None:
    """Replaces the parameters of towers that learn by this process's share; names stay.  All processes call it.

    The model is on its device, has the same weights everywhere, and no optimizer yet.

    Raises:
        ConfigError: if no tower learns, or one of them has parameters that cannot be shared out.
    """
    towers = {"model.image": model.image_tower, "model.text": model.text_tower}
    learning = {name: tower for name, tower in towers.items() if any(p.requires_grad for p in tower.parameters())}
    if not learning:
        raise ConfigError("strategy=fsdp: both towers are frozen, and only what learns is shared out; use ddp")
    # Towers return slices of what they made; nothing here writes into them, which is what torch warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(model.device.type, (dist.get_world_size(),))
    for name, tower in learning.items():
        _refuse_scalars(tower, name)
        convert_conv2d_weight_memory_format(tower, torch.contiguous_format)  # only such weights have shares
        # Whole only while it runs, the tower's own parameters too: else weights that change between two passes
        # without a gradient (averaged ones, loaded ones) would be seen late.
        for part in (*tower.blocks(), tower):
            fully_shard(part, mesh=mesh, reshard_after_forward=True)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Makes the gradient of parameters that every process holds whole its mean over processes; leaves shares alone.

    All processes call it with the same parameters.
    """
    whole = [value for value in parameters if value.requires_grad and not isinstance(value, DTensor)]
    if not whole:
        return
    gradients = [torch.zeros_like(value) if value.grad is None else value.grad for value in whole]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for value, mean in zip(whole, flat.split([value.numel() for value in whole]), strict=True):
        if value.grad is not None:
            value.grad.copy_(mean.view_as(value))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Float[Tensor, ""]:
    """Shortens the gradient to at most `limit` and returns its length before, the same in all processes.

    As `torch.nn.utils.clip_grad_norm_`, for parameters that are whole, sharded, or some of each.
    """
    values = list(parameters)
    gradients = [value.grad for value in values if value.grad is not None]
    shares = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    if not shares:
        norm: Tensor = torch.nn.utils.clip_grad_norm_(values, limit)
        return norm
    whole = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = torch.nn.utils.get_total_norm(shares).square()
    dist.all_reduce(square)
    if whole:
        square += torch.nn.utils.get_total_norm(whole).square()
    norm = square.sqrt()
    if math.isfinite(limit):
        torch._foreach_mul_([*shares, *whole], (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


def full_weights(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """All weights and buffers by name, whole.  All processes call it where weights are sharded.

    Args:
        model: The model.
        keep: Whether this process wants them; otherwise it only helps and gets {}.

    Returns:
        Tensors that were sharded are copies on the CPU; the others are the live ones.
    """
    weights = {}
    for name, value in model.state_dict().items():
        found = _whole(value)
        if keep:
            weights[name] = found
    return weights


@torch.no_grad()
def load_full_weights(model: VisionLanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Puts whole weights, the same in all processes, into a model that may be sharded."""
    own = model.state_dict()
    assert own.keys() == weights.keys()
    for name, value in own.items():
        value.copy_(_like(weights[name], value))
    model.text_tower.forget()  # vectors of the weights before


def full_optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Any]:
    """`optimizer.state_dict()` with whole tensors.  All processes call it where parameters are sharded.

    Args:
        optimizer: The optimizer.
        keep: Whether this process wants it; otherwise it only helps and gets {}.
    """
    state = optimizer.state_dict()
    whole: dict[int, dict[str, Any]] = {}
    for number, values in state["state"].items():
        found = {name: _whole(value) for name, value in values.items()}
        if keep:
            whole[number] = found
    return {**state, "state": whole} if keep else {}


def load_full_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Gives an optimizer the state that `full_optimizer_state` or an unsharded optimizer's `state_dict` holds.

    Args:
        optimizer: Over the same parameters in the same order, sharded or not.
        state: The same in all processes; it is copied.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    laid_out = {
        number: {
            name: _like(value, parameters[number]) if _is_shaped_as(value, parameters[number]) else deepcopy(value)
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": laid_out})


def _refuse_scalars(tower: nn.Module, name: str) -> None:
    scalars = [parameter for parameter, value in tower.named_parameters() if value.ndim == 0]
    if scalars:
        raise ConfigError(f"strategy=fsdp: {name} learns single numbers ({scalars[0]}) that have no shares; use ddp")


def _whole(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    whole: Tensor = value.full_tensor().detach().cpu()
    return whole


def _like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor as the process holds `other`: on its device, and its share where that is one."""
    value = value.detach().to(device=other.device, dtype=other.dtype, copy=True)
    if not isinstance(other, DTensor):
        return value
    # Every process has the whole tensor and takes its share without asking.
    return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)


def _is_shaped_as(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape
