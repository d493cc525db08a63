"""Low-rank adapters: a tower keeps its weights, and a small product of two matrices beside each layer learns.

LoRA (Hu et al. 2021, arXiv 2106.09685): W x becomes W x + alpha / rank * B A x, with B zero at the start, so that
training begins at the tower as it was.  At the end the product is folded into W and nothing of it is left.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import nn

from vlp.config import Config
from vlp.errors import BackendError, ConfigError

if TYPE_CHECKING:
    from vlp.model.model import ModelConfig, VisionLanguageModel
    from vlp.model.towers.tower import Tower


class LoraConfig(Config):
    """Adapters on the linear layers of a tower's blocks."""

    rank: PositiveInt = 8
    """Width of the two matrices' common side."""
    alpha: PositiveInt = 16
    """What they learn counts alpha / rank times."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an adapter's inputs that are left out while training."""
    targets: tuple[str, ...] | None = None
    """Names, or ends of names, of the layers that get one, e.g. [qkv, proj] or [query, value]; null: all linear layers
    of the blocks.  (open_clip's attentions have none of their own: their weights are in one module of torch.)"""


def adapt(tower: "Tower", config: LoraConfig, *, everywhere: bool) -> None:
    """Puts adapters on a tower; afterwards they are all of it that learns.

    Args:
        tower: With weights loaded, and frozen as far as it should be.
        config: Which adapters.
        everywhere: On frozen layers too, not only on those that learn so far.

    Raises:
        ConfigError: if there is no layer to put one on, or one of `targets` is not the name of any.
        BackendError: if peft is not installed.
    """
    layers = {name: layer for name, layer in _used_layers(tower).items() if everywhere or layer.weight.requires_grad}
    chosen = list(layers) if config.targets is None else _chosen(config.targets, layers)
    if not chosen:
        raise ConfigError("lora: the blocks of this tower that may learn have no linear layer; leave lora out")
    tower.requires_grad_(False)
    _inject(tower, config, chosen)


def merge_adapters(model: "VisionLanguageModel") -> "ModelConfig":
    """Folds all adapters into the weights they stand beside, in place: the model says the same, and needs no peft.

    The weights have the names that they have without adapters.  What learned has been folded away, so train on a copy
    of the model, or not at all.

    Returns:
        The model's configuration from now on, without `lora`.
    """
    parts: dict[str, Any] = {}
    for part, tower in (("image", model.image_tower), ("text", model.text_tower)):
        own = getattr(model.config, part)
        if own.lora is not None:
            _fold(tower)
            parts[part] = own.model_copy(update={"lora": None})
    model.config = model.config.model_copy(update=parts)
    return model.config


def _used_layers(tower: "Tower") -> dict[str, nn.Linear]:
    """Linear layers of the blocks, by name, as far as they are called.

    A layer whose weights another one reads, without calling it, would have its adapter ignored.
    """
    inside = {id(part) for block in tower.blocks() for part in block.modules()}
    candidates = {
        name: part for name, part in tower.named_modules() if id(part) in inside and isinstance(part, nn.Linear)
    }
    called: set[int] = set()
    hooks = [part.register_forward_hook(lambda part, *_: called.add(id(part))) for part in candidates.values()]
    was_training = tower.training
    tower.eval()
    try:
        with torch.no_grad():
            tower.encode(tower.example())
    finally:
        tower.train(was_training)
        for hook in hooks:
            hook.remove()
    return {name: part for name, part in candidates.items() if id(part) in called}


def _chosen(targets: tuple[str, ...], layers: Mapping[str, nn.Module]) -> list[str]:
    chosen = []
    for target in targets:
        named = [name for name in layers if f".{name}".endswith(f".{target}")]
        if not named:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            raise ConfigError(
                f"lora.targets: no layer that may learn is called {target!r}; there are {', '.join(ends)}"
            )
        chosen += named
    return list(dict.fromkeys(chosen))


def _inject(tower: nn.Module, config: LoraConfig, names: list[str]) -> None:
    try:
        import peft
    except ImportError:
        raise BackendError("lora: adapters need peft; install it with: pip install 'vlp[lora]'") from None
    design = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names, bias="none"
    )
    peft.inject_adapter_in_model(design, tower)


def _fold(tower: nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, part) for name, part in tower.named_modules() if isinstance(part, BaseTunerLayer)]
    for name, part in adapted:
        parent, _, own = name.rpartition(".")
        part.merge()
        setattr(tower.get_submodule(parent), own, part.get_base_layer())
    del tower.peft_config
