"""One hot patch lands where it is: through reading, preprocessing, the engine, the way back, maps, peaks and boxes.

The model of these tests sees brightness and nothing else, so what it points at is known from the picture alone; all
that lies around it is the engine's own.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from vlp.data.transforms import Preprocess
from vlp.inference.engine import Engine
from vlp.inference.ground import ground
from vlp.ingest import read_image
from vlp.tensors import ImageFeatures, Placement, TextFeatures, Tokens

SIDE, GRID = 64, 8
PATCH = SIDE // GRID
SHAPES = {"square": (160, 160), "wide": (150, 390), "tall": (391, 203), "odd": (161, 157), "small": (40, 50)}
FITS = ("letterbox", "stretch", "crop")
ORIENTATIONS = range(1, 9)


class Words:
    """Stands where a tokenizer stands."""

    max_tokens = 64

    def count(self, text: str) -> int:
        """Words of a text."""
        return len(text.split())

    def __call__(self, texts: list[str]) -> Tokens:
        """One token a text."""
        return Tokens(
            ids=torch.zeros(len(texts), 1, dtype=torch.long), mask=torch.ones(len(texts), 1, dtype=torch.bool)
        )


class Brightness(torch.nn.Module):
    """Stands where a model stands; the map of any text is the mean brightness of each patch, in [0, 1]."""

    def __init__(self, fit: Literal["letterbox", "stretch", "crop"] = "letterbox", *, grid: int = GRID) -> None:
        super().__init__()
        self.config = SimpleNamespace(preprocess=Preprocess(size=SIDE, fit=fit))
        self.tokenizer = Words()
        self.device = torch.device("cpu")
        self.size = (grid, grid)

    def image_features(self, images: Tensor, *, padding: Tensor | None = None) -> ImageFeatures:
        """One number per patch."""
        patches = functional.adaptive_avg_pool2d(images.float() / 255.0, self.size).flatten(2).transpose(1, 2)
        hidden = None
        if padding is not None:
            hidden = functional.adaptive_max_pool2d((~padding)[:, None].float(), self.size).flatten(1) == 0
        return ImageFeatures(pooled=patches.mean(dim=1), patches=patches, grid=self.size, padding=hidden)

    def project(self, features: ImageFeatures) -> ImageFeatures:
        """The tower's features are those of the joint space."""
        return features

    def encode_texts(self, tokens: Tokens) -> TextFeatures:
        """All texts are alike."""
        return TextFeatures(pooled=torch.zeros(len(tokens.ids), 1))

    def maps(self, texts: TextFeatures, images: ImageFeatures) -> Tensor:
        """The same map for every text."""
        grid = images.patches[..., 0].unflatten(1, self.size)
        return grid.expand(len(texts.pooled), *grid.shape)


def seeing(fit: Literal["letterbox", "stretch", "crop"] = "letterbox", *, grid: int = GRID) -> Engine:
    """A real engine around it; texts need no tower, for they change nothing."""
    return Engine(Brightness(fit, grid=grid))  # type: ignore[arg-type]


def hot_patches(shape: tuple[int, int], fit: str) -> list[tuple[np.ndarray, tuple[float, float], float, float]]:
    """Some patches of the model's grid: the picture that is bright there and only there, (x, y) of its centre, and half
    a patch in x and in y, all in pixels of the picture and by the definition of the fit alone."""
    rows, columns = shape
    one = {"letterbox": SIDE / max(shape), "crop": SIDE / min(shape)}.get(fit)
    scale_x, scale_y = (one, one) if one else (SIDE / columns, SIDE / rows)
    half_x, half_y = PATCH / 2 / scale_x, PATCH / 2 / scale_y
    found = []
    for row in range(GRID):
        for column in range(row % 2, GRID, 2):
            x = columns / 2 + ((column + 0.5) * PATCH - SIDE / 2) / scale_x
            y = rows / 2 + ((row + 0.5) * PATCH - SIDE / 2) / scale_y
            if not (half_x <= x <= columns - half_x and half_y <= y <= rows - half_y):
                continue  # not wholly inside the picture
            picture = np.full(shape, 20, np.uint8)
            picture[round(y - half_y) : round(y + half_y), round(x - half_x) : round(x + half_x)] = 230
            found.append((picture, (x, y), half_x, half_y))
    return found


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_hot_patch_lands_in_its_place(kind: str, fit: str) -> None:
    engine = seeing(fit)
    patches = hot_patches(SHAPES[kind], fit)
    assert len(patches) >= 4
    for picture, (x, y), half_x, half_y in patches:
        answer = ground(engine, picture, "hot", threshold=0.45)
        assert answer.map.shape == answer.mask.shape == picture.shape
        assert answer.peak is not None
        assert answer.box is not None
        assert abs(answer.peak[0] - x) <= half_x
        assert abs(answer.peak[1] - y) <= half_y
        left, top, right, bottom = answer.box
        assert left <= x <= right
        assert top <= y <= bottom
        assert right - left <= 4 * half_x + 2, "a box of one patch is not larger than two"
        assert bottom - top <= 4 * half_y + 2


@pytest.mark.parametrize("resolution", ["windows", "both"])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_hot_patch_lands_in_its_place_through_windows(kind: str, fit: str, resolution) -> None:
    engine = seeing(fit)
    for picture, (x, y), half_x, half_y in hot_patches(SHAPES[kind], fit):
        answer = ground(engine, picture, "hot", threshold=0.45, resolution=resolution, window=0.6)
        assert np.isfinite(answer.map).all()
        assert answer.peak is not None
        assert answer.box is not None
        assert abs(answer.peak[0] - x) <= half_x
        assert abs(answer.peak[1] - y) <= half_y
        left, top, right, bottom = answer.box
        assert left <= x <= right
        assert top <= y <= bottom


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_turned_file_is_answered_as_it_is_displayed(orientation: int, suffix: str, tmp_path: Path) -> None:
    """A phone's picture: the pixels lie on their side and EXIF says so; answers are about the upright picture."""
    upright = np.full((120, 200), 30, np.uint8)
    upright[90:112, 20:50] = 240  # lower left, so that no turn or mirror image of it looks the same
    x, y = 35.0, 101.0
    # How the pixels are stored so that a viewer that follows the tag shows them upright (EXIF 2.32, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, k=3),
    }[orientation]
    file = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if suffix == "jpg" else {}
    Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif, **options)
    assert read_image(file)[1].shape == upright.shape
    for resolution in ("image", "windows", "both"):
        answer = ground(seeing(), file, "hot", threshold=0.45, resolution=resolution)
        assert answer.map.shape == upright.shape
        assert answer.peak is not None
        assert answer.box is not None
        assert abs(answer.peak[0] - x) <= 200 / GRID / 2
        assert abs(answer.peak[1] - y) <= 200 / GRID / 2
        left, top, right, bottom = answer.box
        assert left <= x <= right
        assert top <= y <= bottom
        assert answer.where.side == "right", "the patient's right is on the left of the image"
        assert answer.where.zone == "lower"


def farthest(kind: str) -> float:
    """How far a peak lies from its patch at most, in halves of a patch."""
    return max(
        max(abs(peak[0] - x) / half_x, abs(peak[1] - y) / half_y)
        for picture, (x, y), half_x, half_y in hot_patches(SHAPES[kind], "letterbox")
        if (peak := ground(seeing(), picture, "hot", threshold=0.45).peak) is not None
    )


def test_these_tests_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirrored way back, and one that forgets the bars of the letterbox, are both found out."""
    assert farthest("tall") <= 1.0
    own = Placement.map_to_original
    with monkeypatch.context() as changed:
        changed.setattr(Placement, "map_to_original", lambda self, values: own(self, values[:, ::-1]))
        assert farthest("tall") > 1.0
    rows, columns = SHAPES["tall"]
    forgetful = ((SIDE / columns, 0.0, 0.0), (0.0, SIDE / rows, 0.0))
    with monkeypatch.context() as changed:
        changed.setattr(Placement, "map_to_original", lambda self, values: own(replace(self, matrix=forgetful), values))
        assert farthest("tall") > 1.0
