"""The vectors an image can be found by: of the whole, of what a sentence attends to, of a place in it.

All lie in the space that images and sentences share, and are of unit length.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional

from vlp.data.fingerprints import fingerprint, ranks, trimmed
from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError
from vlp.kernels import similarity_maps
from vlp.kernels.reference import attended_nowhere
from vlp.model.scorers import SimilarityAttention, SimilarityAttentionConfig
from vlp.records import Box, Mask
from vlp.tensors import ImageFeatures, Placement, TextFeatures

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

VectorKind = Literal["global", "view", "finding", "region"]
"""What a vector stands for.

    global   a study: the mean of the vectors of its images, at unit length; one per study, kept at image 0
    view     an image, as `Engine.embed` has it; one per image
    finding  what the sentence "There is F." attends to on an image; one per image and finding
    region   a box, mask or point that the archive has for a finding on an image; one per region
"""
Geometry: TypeAlias = Box | Mask | tuple[float, float]
"""A place in pixels of the original image: box (x0, y0, x1, y1), mask, or point (x, y)."""

_UNIT_TOLERANCE = 1e-3


def attended_vectors(
    engine: "Engine", features: ImageFeatures, sentences: Sequence[str]
) -> Float32[np.ndarray, "text image dim"]:
    """What each sentence attends to on each image: the attention's mean of unit patch vectors, at unit length.

    With similarity attention (VL-CABS of RadZero, arXiv 2504.07416) it is the m / |m| that the sentence is scored
    against, so its inner product with the sentence's vector is the similarity.  A scorer that does not attend gets
    the same with its own temperature: softmax over the cosines of sentence and patches.  Two images whose vectors for
    "There is pleural effusion." are close look alike where an effusion is looked for.

    Args:
        engine: whose model made `features`.
        features: of the images, from `Engine.features`.
        sentences: what to look for.

    Raises:
        DataError: for a sentence that cannot be used.
        CheckpointError: if the vectors are no usable numbers.
    """
    texts = TextFeatures(pooled=engine.text_vectors(sentences))
    with torch.inference_mode():
        patches, padding, temperature = _attention(engine, features)
        scaled = similarity_maps(engine.model.scorer.embed_texts(texts), patches) / temperature
        if padding is not None:
            scaled = scaled.masked_fill(attended_nowhere(padding), float("-inf"))
        attended = torch.einsum("sip,ipd->sid", torch.softmax(scaled, dim=-1), patches)
        return _usable(functional.normalize(attended, dim=-1))


def region_vectors(
    engine: "Engine",
    features: ImageFeatures,
    placements: Sequence[Placement],
    boxes: Sequence[Sequence[Geometry]],
) -> Float32[np.ndarray, "region dim"]:
    """The mean of the unit patch vectors inside each place, at unit length; patches count by the share inside.

    Args:
        engine: whose model made `features`.
        features: of the images, from `Engine.features`.
        placements: where the images' pixels went, from the same call.
        boxes: per image its places, in original pixels; the vectors come in this order, image after image.

    Raises:
        DataError: for a place that is none, or of which the model was shown nothing.
        CheckpointError: if the vectors are no usable numbers.
    """
    assert len(placements) == len(boxes) == len(features.pooled)
    weights = [
        [region_weights(place, placement, features[row : row + 1]) for place in places]
        for row, (placement, places) in enumerate(zip(placements, boxes, strict=True))
    ]
    if any(not shares.any() for shares_of_image in weights for shares in shares_of_image):
        raise DataError("the model was shown nothing of the region; give one that lies inside the image")
    return weighted_vectors(engine, features, weights)


def region_weights(place: Geometry, placement: Placement, features: ImageFeatures) -> Float32[np.ndarray, " patch"]:
    """How much of a place lies in each patch, summing to 1; zero everywhere if the model was shown nothing of it.

    Args:
        place: in pixels of the original image; what reaches beyond the image does not count.
        placement: of the image.
        features: of this one image.

    Raises:
        DataError: for numbers that are not finite, a box without area, or a mask of another size than the image.
    """
    if isinstance(place, Mask):
        shares = _mask_shares(place, placement, features.grid)
    else:
        shares = _box_shares(_as_box(place), placement, features.grid)
    if features.padding is not None:
        shares = np.where(features.padding[0].cpu().numpy(), 0.0, shares)
    total = shares.sum()
    weights: np.ndarray = (shares / total if total > 0.0 else shares).astype(np.float32)
    return weights


def weighted_vectors(
    engine: "Engine", features: ImageFeatures, weights: Sequence[Sequence[Float32[np.ndarray, " patch"]]]
) -> Float32[np.ndarray, "region dim"]:
    """What `region_vectors` gives, for weights of patches (per image one row each region), none of them all zero."""
    rows: list[Tensor] = []
    with torch.inference_mode():
        for row, of_image in enumerate(weights):
            if len(of_image):
                patches = engine.model.scorer.unit(features.patches[row])
                rows.append(torch.from_numpy(np.stack(of_image)).to(patches) @ patches)
        if not rows:
            return np.zeros((0, features.patches.shape[2]), dtype=np.float32)
        return _usable(functional.normalize(torch.cat(rows), dim=-1))


def image_fingerprint(seen: SeenImage) -> bytes:
    """32 bytes that are close, in differing bits, for near-duplicates (`vlp.data.fingerprints`).

    Made of what the model was shown, without padding and flat borders, so that an archive's image and a query's go the
    same way whatever files they came from.  `np.frombuffer(value, dtype=np.uint64)` are its four words.
    """
    pixels = seen.pixels
    if seen.padding is not None:
        rows, columns = (np.flatnonzero(~seen.padding.all(axis=axis)) for axis in (1, 0))
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return fingerprint(ranks(trimmed(pixels)[-1])).tobytes()


def mean_vectors(vectors: Float[np.ndarray, "image dim"], owners: Sequence[int]) -> Float32[np.ndarray, "study dim"]:
    """Per owner (numbered from 0, none left out) the mean of its vectors, at unit length."""
    total = np.zeros((max(owners) + 1, vectors.shape[1]))
    np.add.at(total, list(owners), vectors)
    means: np.ndarray = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    return means


def _attention(
    engine: "Engine", features: ImageFeatures
) -> tuple[Float[Tensor, "image patch dim"], Bool[Tensor, "image patch"] | None, Float[Tensor, ""]]:
    """What the scorer attends to, at unit length and zero in the padding, where that is, and how sharply it attends."""
    scorer, config = engine.model.scorer, engine.model.config.scorer
    patches, padding = features.patches, features.padding
    temperature = scorer.temperature
    if isinstance(scorer, SimilarityAttention) and isinstance(config, SimilarityAttentionConfig):
        temperature = scorer.attention_temperature or temperature
        if config.global_token:
            patches = torch.cat((features.pooled[:, None].to(patches.dtype), patches), dim=1)
            padding = None if padding is None else functional.pad(padding, (1, 0), value=False)
    unit = scorer.unit(patches)
    return unit if padding is None else unit.masked_fill(padding[..., None], 0.0), padding, temperature()


def _as_box(place: Box | tuple[float, float]) -> Box:
    """The box; a point becomes one that is too small to reach into a second patch by more than its edge."""
    if not np.isfinite(place).all():
        raise DataError("a region has coordinates that are not finite numbers")
    if len(place) == 2:
        x, y = place
        return x - 1e-6, y - 1e-6, x + 1e-6, y + 1e-6
    if place[2] <= place[0] or place[3] <= place[1]:
        raise DataError("a box is x0,y0,x1,y1 in pixels with x1 above x0 and y1 above y0")
    return place


def _box_shares(box: Box, placement: Placement, grid: tuple[int, int]) -> Float[np.ndarray, " patch"]:
    """Area that the box shares with each patch; none with patches outside the image."""
    rows, columns = placement.original
    x0, y0, x1, y1 = max(0.0, box[0]), max(0.0, box[1]), min(float(columns), box[2]), min(float(rows), box[3])
    corners = placement.to_model(np.array([[x0, y0], [x1, y1]], dtype=np.float64))
    if x1 <= x0 or y1 <= y0:
        return np.zeros(grid[0] * grid[1])
    along_y, along_x = (
        _overlap(corners[0, axis], corners[1, axis], length=length, cells=cells)
        for axis, length, cells in ((1, placement.model[0], grid[0]), (0, placement.model[1], grid[1]))
    )
    shares: np.ndarray = np.outer(along_y, along_x).ravel()
    return shares


def _overlap(start: float, end: float, *, length: int, cells: int) -> Float[np.ndarray, " cell"]:
    edges = np.linspace(0.0, length, cells + 1)
    shared: np.ndarray = np.clip(np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1]), 0.0, None)
    return shared


def _mask_shares(mask: Mask, placement: Placement, grid: tuple[int, int]) -> Float[np.ndarray, " patch"]:
    """How many of the mask's pixels have their centre in each patch."""
    if (mask.rows, mask.columns) != placement.original:
        raise DataError("a mask is of another size than its image")
    rows, columns = np.nonzero(mask.decode())
    seen = placement.to_model(np.stack((columns, rows), axis=1) + 0.5)
    cells = np.floor(seen * (grid[1] / placement.model[1], grid[0] / placement.model[0])).astype(np.int64)
    inside = ((cells >= 0) & (cells < (grid[1], grid[0]))).all(axis=1)
    flat = cells[inside, 1] * grid[1] + cells[inside, 0]
    return np.bincount(flat, minlength=grid[0] * grid[1]).astype(np.float64)


def _usable(values: Tensor) -> Float32[np.ndarray, "*shape dim"]:
    vectors: np.ndarray = values.float().cpu().numpy()
    if not (np.abs(np.linalg.norm(vectors, axis=-1) - 1.0) < _UNIT_TOLERANCE).all():
        raise CheckpointError("the model gives no usable vectors for parts of images; its training may have diverged")
    return vectors
