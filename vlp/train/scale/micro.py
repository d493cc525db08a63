"""Large batches on small devices: towers see a few images at a time, the objective sees all of them.

What a tower remembers for its backward pass is dropped after every part and computed anew when the gradient comes
back to it (torch's checkpointing), so the activations of one part live at a time while every text still meets every
image.  Negatives are those of the whole batch, and so is the gradient: GradCache (Gao et al. 2021, arXiv 2101.06983).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vlp.model.model import VisionLanguageModel
from vlp.model.towers.recomputation import BuffersKept
from vlp.tensors import Batch, ImageFeatures, TextFeatures, Tokens


def number_of_parts(num_images: tuple[int, ...], micro_batch: int | None) -> int:
    """Into how many parts every rank cuts its batch so that none is longer than `micro_batch` images.

    The number is the same on all ranks, since layers that talk across ranks must do so equally often, and no rank
    has an empty part.
    """
    if micro_batch is None:
        return 1
    return max(1, min(math.ceil(max(num_images) / micro_batch), min(num_images)))


def encode_images(model: VisionLanguageModel, batch: Batch, *, parts: int, resized: bool = False) -> ImageFeatures:
    """A batch's images in the joint space, in `parts` parts of nearly equal size.

    Batch statistics, where a tower has them, are those of each part; running statistics move once a part, as without
    recomputation.  A frozen tower has nothing to remember for the backward pass: it sees every part once, and only
    what follows it is computed anew.

    Args:
        model: Whose towers.
        batch: Its images, or what a frozen tower made of them before.
        parts: How many.
        resized: Whether the images may have any size the tower takes.
    """
    if parts == 1:
        return model.project(model.batch_features(batch, resized=resized))
    if batch.features is not None or model.image_tower.frozen:
        return ImageFeatures.joined([_project(model, seen) for seen in _seen_by_frozen(model, batch, parts, resized)])

    def encode(images: Tensor, padding: Tensor | None) -> ImageFeatures:
        return model.project(model.image_features(images, padding=padding, resized=resized))

    return ImageFeatures.joined([_forgetful(encode, model, *piece) for piece in _pieces(batch, parts)])


def encode_texts(model: VisionLanguageModel, tokens: Tokens, *, parts: int) -> TextFeatures:
    """`model.encode_texts`, in `parts` parts; a frozen tower remembers its vectors and is asked for all at once.

    The tower is called equally often on all ranks, also where there are fewer texts than parts or none at all: all that
    learns then has a gradient (of zero), as on ranks that have texts.
    """
    if parts == 1 or model.text_tower.frozen:
        return TextFeatures(pooled=_encode_texts(model, tokens.ids, tokens.mask))
    pieces = zip(tokens.ids.tensor_split(parts), tokens.mask.tensor_split(parts), strict=True)
    return TextFeatures(
        pooled=torch.cat([_forgetful(partial(_encode_texts, model), model, *piece) for piece in pieces])
    )


def _encode_texts(model: VisionLanguageModel, ids: Tensor, mask: Tensor) -> Tensor:
    """Vectors of some texts, perhaps of none: transformers refuse an empty batch, and see one token in its place."""
    if len(ids):
        return model.encode_texts(Tokens(ids=ids, mask=mask)).pooled
    one = torch.zeros((1, 1), dtype=torch.int64, device=ids.device)
    return model.encode_texts(Tokens(ids=one, mask=one == 0)).pooled[:0]


def _pieces(batch: Batch, parts: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images and padding of each part."""
    paddings = (None,) * parts if batch.padding is None else batch.padding.tensor_split(parts)
    return zip(batch.images.tensor_split(parts), paddings, strict=True)


def _seen_by_frozen(model: VisionLanguageModel, batch: Batch, parts: int, resized: bool) -> Iterator[ImageFeatures]:
    """Tower features of each part."""
    if batch.features is None:
        for images, padding in _pieces(batch, parts):
            yield model.image_features(images, padding=padding, resized=resized)
        return
    for rows in torch.arange(batch.num_images).tensor_split(parts):
        yield batch.features[int(rows[0]) : int(rows[-1]) + 1].float()


def _project(model: VisionLanguageModel, seen: ImageFeatures) -> ImageFeatures:
    """`model.project` that keeps nothing but its argument."""

    def project(pooled: Tensor, patches: Tensor, padding: Tensor | None) -> ImageFeatures:
        return model.project(ImageFeatures(pooled=pooled, patches=patches, grid=seen.grid, padding=padding))

    features: ImageFeatures = _forgetful(project, model, seen.pooled, seen.patches, seen.padding)
    return features


def _forgetful(encode: Callable[..., Any], model: nn.Module, *arguments: Any) -> Any:
    """Calls `encode`, keeping only its arguments; it runs again, with the same random numbers, in the backward pass."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), BuffersKept(model)

    return checkpoint(encode, *arguments, use_reentrant=False, preserve_rng_state=True, context_fn=contexts)
