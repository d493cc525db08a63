"""The tensors that flow through the model: batches, features, scores, and where an image's pixels went.

Every class is frozen and says its shapes.  `Batch` has its own `to` and `pin_memory`, since Lightning
refuses to move a frozen dataclass by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

IGNORE = -1
"""A pair in a positives matrix that is neither positive nor negative."""

PRESENT, ABSENT, UNCERTAIN = 1, 2, 3
"""What `Statements.certainty` holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Token ids of some texts, padded to one length."""

    ids: Int[Tensor, "text token"]
    mask: Bool[Tensor, "text token"]
    """True where a token is real, False where it is padding."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Tokens":
        """The same tokens on another device."""
        return Tokens(
            ids=self.ids.to(device, non_blocking=non_blocking),
            mask=self.mask.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Tokens":
        """The same tokens in page-locked memory."""
        return Tokens(ids=self.ids.pin_memory(), mask=self.mask.pin_memory())


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """What sentences say, as codes: two codes are equal exactly where the things are, on every process.

    `data.statements` makes them (64-bit hashes); 0 stands for "says nothing of the kind".
    """

    identity: Int[Tensor, " statement"]
    """Of the normalised words."""
    finding: Int[Tensor, " statement"]
    location: Int[Tensor, " statement"]
    """Of the whole normalised place, side and zone."""
    certainty: Int[Tensor, " statement"]
    """`PRESENT`, `ABSENT`, `UNCERTAIN`, or 0."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Statements":
        """The same statements on another device."""
        return self._each(lambda codes: codes.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Statements":
        """The same statements in page-locked memory."""
        return self._each(torch.Tensor.pin_memory)

    def __getitem__(self, rows: Int[Tensor, " row"]) -> "Statements":
        """The statements of some rows."""
        return self._each(lambda codes: codes[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Statements":
        return Statements(
            identity=change(self.identity),
            finding=change(self.finding),
            location=change(self.location),
            certainty=change(self.certainty),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFeatures:
    """What an image tower makes of images."""

    pooled: Float[Tensor, "image dim"]
    patches: Float[Tensor, "image patch dim"]
    """Patches row by row, from the top left."""
    grid: tuple[int, int]
    """(rows, columns) of the patch grid; rows * columns = patch."""
    padding: Bool[Tensor, "image patch"] | None = None
    """True where a patch shows only padding and must take no part; None where there is none."""

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "ImageFeatures":
        """The same features on another device."""
        return self._each(lambda values: values.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "ImageFeatures":
        """The same features in page-locked memory."""
        return self._each(torch.Tensor.pin_memory)

    def float(self) -> "ImageFeatures":
        """The same features as float32."""
        return replace(self, pooled=self.pooled.float(), patches=self.patches.float())

    def __getitem__(self, rows: slice) -> "ImageFeatures":
        """The features of some images, as views."""
        return self._each(lambda values: values[rows])

    @classmethod
    def joined(cls, parts: "Sequence[ImageFeatures]") -> "ImageFeatures":
        """The features of all images of several parts of one grid; padding is nowhere in a part that has none."""
        padding = None
        if any(part.padding is not None for part in parts):
            padding = torch.cat(
                [
                    part.patches.new_zeros(part.patches.shape[:2], dtype=torch.bool)
                    if part.padding is None
                    else part.padding
                    for part in parts
                ]
            )
        return cls(
            pooled=torch.cat([part.pooled for part in parts]),
            patches=torch.cat([part.patches for part in parts]),
            grid=parts[0].grid,
            padding=padding,
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        return ImageFeatures(
            pooled=change(self.pooled),
            patches=change(self.patches),
            grid=self.grid,
            padding=None if self.padding is None else change(self.padding),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One training step's images and sentences.

    Sentences are packed: `tokens` holds each distinct sentence once, and `sentence` says which of them
    every (study, sentence) pair uses, so identical sentences cost one text forward and are known to be equal.
    """

    images: Shaped[Tensor, "image channel height width"]
    """uint8; the model's own normalisation turns them into floats on the device."""
    padding: Bool[Tensor, "image height width"] | None
    """True at pixels that show nothing of their image (letterbox bars, corners an augmentation turned into view);
    None where no image has any."""
    tokens: Tokens
    """The distinct sentences of the batch, [unique token]."""
    sentence: Int[Tensor, "text"]
    """Row of `tokens` each text uses."""
    owner: Int[Tensor, "text"]
    """Index, within the batch, of the study each text belongs to."""
    flipped: Bool[Tensor, "text"]
    """True for a text that was made by turning one of its owner's sentences into what is not true of it."""
    study: Int[Tensor, "image"]
    """Index, within the batch, of the study each image belongs to."""
    said: Statements
    """What each row of `tokens` says."""
    known: Statements
    """Everything the batch's studies say, whether or not it is among the texts of this step."""
    known_study: Int[Tensor, "statement"]
    """Index, within the batch, of the study each of `known` belongs to."""
    keys: tuple[str, ...]
    """Shard keys of the studies, in the order `owner` and `study` count them."""
    position: int
    """How many batches of this epoch come before this one; what a checkpoint needs to go on after it."""
    features: ImageFeatures | None = None
    """What a frozen image tower makes of the images, where it is remembered; `images` then hold no pixel
    ([image 1 0 0])."""
    replaced: tuple[str, ...] = ()
    """Keys of the studies that could not be read and that others stand in for."""

    @property
    def num_images(self) -> int:
        """How many images the batch holds."""
        return int(self.images.shape[0])

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            padding=None if self.padding is None else self.padding.to(device, non_blocking=non_blocking),
            tokens=self.tokens.to(device, non_blocking=non_blocking),
            sentence=self.sentence.to(device, non_blocking=non_blocking),
            owner=self.owner.to(device, non_blocking=non_blocking),
            flipped=self.flipped.to(device, non_blocking=non_blocking),
            study=self.study.to(device, non_blocking=non_blocking),
            said=self.said.to(device, non_blocking=non_blocking),
            known=self.known.to(device, non_blocking=non_blocking),
            known_study=self.known_study.to(device, non_blocking=non_blocking),
            features=None if self.features is None else self.features.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory."""
        return replace(
            self,
            images=self.images.pin_memory(),
            padding=None if self.padding is None else self.padding.pin_memory(),
            tokens=self.tokens.pin_memory(),
            sentence=self.sentence.pin_memory(),
            owner=self.owner.pin_memory(),
            flipped=self.flipped.pin_memory(),
            study=self.study.pin_memory(),
            said=self.said.pin_memory(),
            known=self.known.pin_memory(),
            known_study=self.known_study.pin_memory(),
            features=None if self.features is None else self.features.pin_memory(),
        )


def stack_padding(
    masks: Sequence[Bool[np.ndarray, "height width"] | None],
) -> Bool[Tensor, "image height width"] | None:
    """The padding of several images of one size, each a mask or None for nowhere; None if that is true of all."""
    shape = next((mask.shape for mask in masks if mask is not None), None)
    if shape is None:
        return None
    nowhere = np.zeros(shape, dtype=bool)
    return torch.from_numpy(np.stack([nowhere if mask is None else mask for mask in masks]))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFeatures:
    """What a text tower makes of texts."""

    pooled: Float[Tensor, "text dim"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well each text fits each image."""

    similarity: Float[Tensor, "text image"]
    """In [-1, 1], comparable across prompts."""
    logits: Float[Tensor, "text image"]
    """The similarity with the scorer's temperature (and bias) applied, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How an image was brought to the model's size: an affine map, kept so that answers can be brought back.

    Points are (x, y) with (0, 0) the corner of the top left pixel (see `records`), so a plain resize by `s`
    is exactly `x -> s * x`.
    """

    original: tuple[int, int]
    """(rows, columns) of the image as stored."""
    model: tuple[int, int]
    """(rows, columns) the model sees."""
    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]
    """original (x, y, 1) -> model (x, y)."""

    def _affine(self) -> np.ndarray:
        return np.asarray((*self.matrix, (0.0, 0.0, 1.0)), dtype=np.float64)

    def to_model(self, points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Where points of the original image lie in what the model sees."""
        return _transform(self._affine(), points)

    def to_original(self, points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "point 2"]:
        """Where points of what the model sees lie in the original image."""
        return _transform(np.linalg.inv(self._affine()), points)

    def map_to_original(self, values: Float[np.ndarray, "grid_rows grid_columns"]) -> Float[np.ndarray, "rows columns"]:
        """A map on the patch grid, bilinearly interpolated, in original pixels.

        Every original pixel centre is carried into the model's frame and the map is read there; the outermost
        half patch repeats the edge value.  Pixels the model never saw (cropped away) are NaN.
        """
        import cv2

        seen_x, seen_y = self._pixel_centres()
        inside = (seen_x >= 0) & (seen_x <= self.model[1]) & (seen_y >= 0) & (seen_y <= self.model[0])
        grid_x = (seen_x * (values.shape[1] / self.model[1]) - 0.5).astype(np.float32)
        grid_y = (seen_y * (values.shape[0] / self.model[0]) - 0.5).astype(np.float32)
        carried = cv2.remap(
            np.ascontiguousarray(values, dtype=np.float32),
            np.ascontiguousarray(np.broadcast_to(grid_x, self.original)),
            np.ascontiguousarray(np.broadcast_to(grid_y, self.original)),
            interpolation=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.where(inside, carried, np.float32("nan")).astype(np.float32)

    def _pixel_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """(x, y) in the model's frame of every original pixel centre, each broadcastable to [rows columns].

        Without rotation or shear, x depends on the column alone and y on the row alone: the common case, and a
        thousandth of the work.
        """
        rows, columns = self.original
        (x_x, x_y, x_0), (y_x, y_y, y_0) = self.matrix
        xs, ys = np.arange(columns)[None] + 0.5, np.arange(rows)[:, None] + 0.5
        if x_y == 0.0 and y_x == 0.0:
            return x_x * xs + x_0, y_y * ys + y_0
        return x_x * xs + x_y * ys + x_0, y_x * xs + y_y * ys + y_0


def _transform(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    homogeneous = np.concatenate((points, np.ones((len(points), 1))), axis=1)
    result: np.ndarray = (homogeneous @ affine.T)[:, :2]
    return result
