"""Weights from local files, read without running code, and fitted to a model that may differ a little."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vlp.errors import BackendError

_WRAPPERS = ("state_dict", "model", "module", "teacher")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a .pth, .pt or .bin state dict.

    Raises:
        BackendError: if the file is missing, damaged, or holds anything but tensors.
    """
    if not path.is_file():
        raise BackendError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise BackendError(f"{path}: not readable as weights: {' '.join(str(error).split())[:160]}") from None
    except Exception:  # the unpickler refuses what is not a tensor with its own kind of error
        raise BackendError(f"{path}: holds more than tensors and is not loaded; convert it to safetensors") from None
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    weights = {str(name): value for name, value in dict(content).items() if isinstance(value, Tensor)}
    if not weights:
        raise BackendError(f"{path}: holds no weights")
    return weights


def fit_by_name(model: nn.Module, weights: Mapping[str, Tensor], *, where: str, prefix: str = "") -> None:
    """Loads the tensors whose names, after `prefix`, are the model's; others (a removed head) are left out.

    Raises:
        BackendError: if a tensor of the model is missing, or of another shape.
    """
    named = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    if isinstance(model, VisionTransformer):
        named = checkpoint_filter_fn(named, model)  # position embeddings to this grid
    own = model.state_dict()
    missing = sorted(own.keys() - named.keys())
    if missing:
        raise BackendError(f"{where}: {len(missing)} tensors of this model are not in it, e.g. {missing[0]}")
    _load(model, {name: named[name] for name in own}, where)


def fit_by_order(model: nn.Module, weights: Mapping[str, Tensor], *, where: str) -> None:
    """Loads tensors one after another, whatever they are called; a rest at the end (a head) is left out.

    Raises:
        BackendError: if there are too few, or one is of another shape than its counterpart.
    """
    counters = "num_batches_tracked"
    own = [name for name in model.state_dict() if not name.endswith(counters)]
    given = [value for name, value in weights.items() if not name.endswith(counters)]
    if len(given) < len(own):
        raise BackendError(f"{where}: holds {len(given)} tensors, this model needs {len(own)}")
    _load(model, dict(zip(own, given, strict=False)), where)


def _load(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    own = model.state_dict()
    fitted = {name: _one_channel(value, own[name]) for name, value in weights.items()}
    wrong = [name for name, value in fitted.items() if value.shape != own[name].shape]
    if wrong:
        name = wrong[0]
        raise BackendError(
            f"{where}: {name} is {tuple(fitted[name].shape)} and this model's is {tuple(own[name].shape)}; "
            f"{len(wrong)} tensors differ"
        )
    model.load_state_dict(fitted, strict=False)


def _one_channel(value: Tensor, own: Tensor) -> Tensor:
    """A first convolution for colour, summed for a gray image: the same answer as repeating the image three times."""
    if value.ndim == 4 and value.shape[1] == 3 and own.ndim == 4 and own.shape[1] == 1:
        return value.sum(dim=1, keepdim=True)
    return value
