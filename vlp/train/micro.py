"""Large batches on small devices: towers see a few images at a time, the objective sees all of them.

What a tower remembers for its backward pass is dropped after every part and computed anew when the gradient comes
back to it (torch's checkpointing), so the activations of one part live at a time while every text still meets every
image.  Negatives are those of the whole batch, and so is the gradient: GradCache (Gao et al. 2021, arXiv 2101.06983).
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.model.model import VisionLanguageModel
from vlp.tensors import Batch, ImageFeatures, TextFeatures, Tokens


def number_of_parts(num_images: tuple[int, ...], micro_batch: int | None) -> int:
    """Into how many parts every rank cuts its batch so that none is longer than `micro_batch` images.

    The number is the same on all ranks, since layers that talk across ranks must do so equally often, and no rank
    has an empty part.
    """
    if micro_batch is None:
        return 1
    return max(1, min(math.ceil(max(num_images) / micro_batch), min(num_images)))


def encode_images(model: VisionLanguageModel, batch: Batch, *, parts: int) -> ImageFeatures:
    """`model.encode_images` of a batch, in `parts` parts of nearly equal size.

    Batch statistics, where a tower has them, are those of each part; running statistics move once a part, as without
    recomputation.
    """
    if parts == 1:
        return model.encode_images(batch.images, padding=batch.padding)

    def encode(images: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        features = model.encode_images(images, padding=padding)
        return features.pooled, features.patches, features.padding

    paddings = (None,) * parts if batch.padding is None else batch.padding.tensor_split(parts)
    pieces = zip(batch.images.tensor_split(parts), paddings, strict=True)
    pooled, patches, padding = zip(*(_forgetful(encode, model, *piece) for piece in pieces), strict=True)
    return ImageFeatures(
        pooled=torch.cat(pooled),
        patches=torch.cat(patches),
        grid=model.grid,
        padding=None if batch.padding is None else torch.cat(padding),
    )


def encode_texts(model: VisionLanguageModel, tokens: Tokens, *, parts: int) -> TextFeatures:
    """`model.encode_texts`, in `parts` parts; a frozen tower remembers its vectors and is asked for all at once.

    Without a text there are no vectors, yet all that learns has a gradient (of zero), as on ranks that have texts.
    """
    if len(tokens.ids) == 0:
        # Transformers refuse an empty batch: they see one token in its place.
        one = torch.zeros((1, 1), dtype=torch.int64, device=tokens.ids.device)
        return TextFeatures(pooled=model.encode_texts(Tokens(ids=one, mask=one == 0)).pooled[:0])
    parts = min(parts, len(tokens.ids))
    if parts <= 1 or model.text_tower.frozen:
        return model.encode_texts(tokens)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        return model.encode_texts(Tokens(ids=ids, mask=mask)).pooled

    pieces = zip(tokens.ids.tensor_split(parts), tokens.mask.tensor_split(parts), strict=True)
    return TextFeatures(pooled=torch.cat([_forgetful(encode, model, *piece) for piece in pieces]))


class BuffersKept:
    """Puts a module's buffers back after the block: what a second look at the same images must not move."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [buffer for part in module.modules() if part.training for buffer in part.buffers(recurse=False)]
        self._values: list[Tensor] = []

    def __enter__(self) -> None:
        self._values = [buffer.detach().clone() for buffer in self._buffers]

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers, self._values, strict=True):
                buffer.copy_(value)
        self._values = []


def _forgetful(encode: Callable[..., Any], model: nn.Module, *arguments: Any) -> Any:
    """Calls `encode`, keeping only its arguments; it runs again, with the same random numbers, in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), BuffersKept(model)

    return checkpoint(encode, *arguments, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)
