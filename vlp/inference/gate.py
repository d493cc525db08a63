"""Whether an image is one the model may answer for: an upright, whole, frontal chest radiograph with bright bone.

A gate is fitted on films of patients of their own (`vlp.calibrate.gate`) and kept as plain numbers in `gate.json`.  It
looks at what the model makes of an image (the image tower's pooled vector and the one of the joint space) and at a few
cheap figures of the pixels themselves, and refuses with a reason.  Research use, not a medical device.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.stats import rankdata

from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from vlp.inference.engine import Engine, Looked

SCHEMA_VERSION = 1
FILE_NAME = "gate.json"

Reason = Literal[
    "not_chest_radiograph",
    "inverted_polarity",
    "rotated",
    "lateral_view",
    "cut_off",
    "mirrored",
    "out_of_distribution",
    "no_contrast",
    "bad_geometry",
]
Views = Literal["frontal", "any"]

MEANING: Mapping[Reason, str] = MappingProxyType(
    {
        "not_chest_radiograph": "this does not look like a chest radiograph",
        "inverted_polarity": "bone looks dark: the polarity seems to be inverted; invert the image",
        "rotated": "the film seems to lie on its side or upside down; turn the image",
        "lateral_view": "this looks like a lateral view, and the model answers for frontal ones",
        "cut_off": "a part of the chest seems to be missing from the image",
        "mirrored": "left and right seem to be exchanged",
        "out_of_distribution": "this is unlike the radiographs that the gate was fitted on",
        "no_contrast": "the image shows next to no differences in grey",
        "bad_geometry": "the image is too small or too narrow for a radiograph",
    }
)
"""What each reason means, to be shown to a person."""

LARGEST_ASPECT = 3.0
"""Longer side over shorter side; no radiograph of a chest is longer."""
SMALLEST_SIDE = 0.5
"""The shorter side of an image as a share of the shorter side the model sees: less than that was never resolved."""
SMALLEST_CONTRAST = 12.0
"""Grey levels (of 255) between the darkest and the brightest hundredth of the pixels."""

_THUMBNAIL = 16
_HISTOGRAM = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an image may be answered for."""

    accepted: bool
    reason: Reason | None
    """Why not; None where it may."""
    score: float
    """How far the image is from a usual film: 0 is the middle of good ones, from 1 on it is refused."""
    scores: Mapping[Reason, float]
    """The same by reason; reasons the gate did not learn are missing."""

    @property
    def message(self) -> str:
        """The verdict in words."""
        return "accepted" if self.reason is None else MEANING[self.reason]

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain values."""
        return {
            "accepted": self.accepted,
            "reason": self.reason,
            "message": self.message,
            "score": self.score,
            "scores": dict(self.scores),
        }


def inputs(looked: "Looked") -> Float[np.ndarray, "image input"]:
    """What a gate judges images by: the model's two pooled vectors, a thumbnail, and figures of the pixels, float64."""
    pixels = [_content(seen) for seen in looked.seen]
    blocks = (
        _unit_rows(looked.features.pooled.float().cpu().numpy()),
        looked.tower.float().cpu().numpy(),
        np.stack([_thumbnail(content) for content in pixels]),
        np.stack([_figures(content, seen) for content, seen in zip(pixels, looked.seen, strict=True)]),
    )
    return np.concatenate([block.astype(np.float64) for block in blocks], axis=1)


def block_sizes(looked: "Looked") -> tuple[int, ...]:
    """How many of the numbers in a row of `inputs` each of its parts has, in order."""
    joint, tower = looked.features.pooled.shape[1], looked.tower.shape[1]
    return joint, tower, _THUMBNAIL**2, _NUM_FIGURES


def _content(seen: SeenImage) -> UInt8[np.ndarray, "rows columns"]:
    """What the model was shown without its bars."""
    if seen.padding is None:
        return seen.pixels
    inside = ~seen.padding
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    return seen.pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _thumbnail(content: np.ndarray) -> np.ndarray:
    """Ranks of mean greys in [-1, 1], row by row: brightness, contrast and window do not matter."""
    small = cv2.resize(content, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    ranks: np.ndarray = (rankdata(small.ravel()) - 0.5) / small.size * 2 - 1
    return ranks


def _figures(content: np.ndarray, seen: SeenImage) -> np.ndarray:
    grey = content.astype(np.float32) / 255.0
    rows, columns = seen.placement.original
    histogram = np.histogram(grey, bins=_HISTOGRAM, range=(0.0, 1.0))[0] / grey.size
    low, middle, high = np.percentile(grey, (5, 50, 95))
    span = max(float(high - low), 1e-3)
    edge = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA)
    mirrored, upended = small - small[:, ::-1], small - small[::-1]
    figures = [
        math.log(rows / columns), float(low), float(middle), float(high),
        float(grey.mean()), float(grey.std()), float(edge.mean()), float(edge.std()),
        float(np.abs(mirrored).mean()) / span, float(np.abs(upended).mean()) / span,
        *(math.log(1e-4 + value) for value in _roughness(grey / span)),
    ]  # fmt: skip
    return np.concatenate((figures, histogram))


_ROUGHNESS_SCALES = 4
_NUM_FIGURES = 10 + _ROUGHNESS_SCALES + _HISTOGRAM


def _roughness(grey: np.ndarray) -> list[float]:
    """Mean difference of neighbouring greys, at full size and at halves of it: noise, text and gradients stand out."""
    values = []
    for _ in range(_ROUGHNESS_SCALES):
        across = np.abs(np.diff(grey, axis=1)).mean() if grey.shape[1] > 1 else 0.0
        down = np.abs(np.diff(grey, axis=0)).mean() if grey.shape[0] > 1 else 0.0
        values.append(float(across + down))
        size = (max(1, grey.shape[1] // 2), max(1, grey.shape[0] // 2))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return values


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-12)


def plain_reason(seen: SeenImage) -> Reason | None:
    """What rules out an image before anything that was learned is asked."""
    rows, columns = seen.placement.original
    short, long = min(rows, columns), max(rows, columns)
    if long > LARGEST_ASPECT * short or short < SMALLEST_SIDE * min(seen.placement.model):
        return "bad_geometry"
    low, high = np.percentile(_content(seen), (1, 99))
    return "no_contrast" if high - low < SMALLEST_CONTRAST else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """A fitted gate: standardised inputs, a projection, one linear score per kind, and a distance for unknown kinds."""

    model: str
    """Fingerprint of the model it was fitted with; another one's features mean nothing to it."""
    views: Views
    centre: Float[np.ndarray, " input"]
    scale: Float[np.ndarray, " input"]
    basis: Float[np.ndarray, "component input"]
    reasons: tuple[Reason, ...]
    """What each linear score speaks for; several kinds of pictures may share a reason."""
    weights: Float[np.ndarray, "kind component"]
    bias: Float[np.ndarray, " kind"]
    """Log odds of each kind against a good film."""
    usual: Float[np.ndarray, " component"]
    """Mean of good films."""
    spread: Float[np.ndarray, " direction"]
    """Standard deviation of good films along the directions in which they differ."""
    directions: Float[np.ndarray, "direction component"]
    residual: float
    """Standard deviation of what good films leave outside these directions, per component."""
    middle: Mapping[Reason, float]
    limit: Mapping[Reason, float]
    """Raw values that become score 0 and score 1."""
    facts: Mapping[str, Any]
    """What it was fitted on and what that gave: for the reader of the file, not for judging."""

    def judge(self, looked: "Looked") -> tuple[Verdict, ...]:
        """A verdict on each image that `Engine.looked` has looked at, in order."""
        raw = self.raw(inputs(looked))
        scores = self.scored(raw)
        return tuple(
            self._verdict(plain_reason(seen), _row(raw, row), _row(scores, row)) for row, seen in enumerate(looked.seen)
        )

    def raw(self, values: Float[np.ndarray, "image input"]) -> dict[Reason, Float[np.ndarray, " image"]]:
        """What was learned of each reason, before it is brought to the scale on which 1 is refused.

        Log odds of all kinds of pictures of that reason together against good films; of the distance, its logarithm.
        """
        components = ((values - self.centre) / self.scale) @ self.basis.T
        logits = components @ self.weights.T + self.bias
        found: dict[Reason, np.ndarray] = {}
        for kind, reason in enumerate(self.reasons):
            before = found.get(reason)
            found[reason] = logits[:, kind] if before is None else np.logaddexp(before, logits[:, kind])
        found["out_of_distribution"] = self._distance(components - self.usual)
        return found

    def refuse_other(self, engine: "Engine") -> None:
        """Passes the engine of the model that the gate was fitted with.

        Raises:
            CheckpointError: for any other model.
        """
        if engine.fingerprint != self.model:
            raise CheckpointError("the gate was fitted with another model; run vlp calibrate for this one")

    def _distance(self, components: np.ndarray) -> np.ndarray:
        along = components @ self.directions.T
        outside = (components**2).sum(axis=1) - (along**2).sum(axis=1)
        squared = ((along / self.spread) ** 2).sum(axis=1) + np.maximum(outside, 0.0) / self.residual**2
        distance: np.ndarray = np.log(np.maximum(squared, 1e-12))
        return distance

    def scored(self, raw: Mapping[Reason, np.ndarray]) -> dict[Reason, Float[np.ndarray, " image"]]:
        """What `raw` gives on the scale on which 0 is the middle of good films and 1 is refused."""
        return {
            reason: (values - self.middle[reason]) / (self.limit[reason] - self.middle[reason])
            for reason, values in raw.items()
        }

    def _verdict(self, plain: Reason | None, raw: Mapping[Reason, float], scores: Mapping[Reason, float]) -> Verdict:
        score = max(scores.values())
        learned = [reason for reason in scores if scores[reason] >= 1.0]
        # The distance says only that something is wrong; where a kind of picture fits, that is the better answer.
        named = [reason for reason in learned if reason != "out_of_distribution"] or learned
        reason = plain or max(named, key=lambda one: raw[one], default=None)
        return Verdict(
            accepted=reason is None,
            reason=reason,
            score=score if plain is None else max(score, 1.0),
            scores=MappingProxyType(dict(scores)),
        )


def _row(values: Mapping[Reason, np.ndarray], row: int) -> dict[Reason, float]:
    return {reason: float(column[row]) for reason, column in values.items()}


def save(gate: Gate, path: Path) -> Path:
    """Writes the gate as JSON, whole or not at all."""
    values: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "note": "Research use, not a medical device."}
    for name in Gate.__dataclass_fields__:
        value = getattr(gate, name)
        values[name] = _rounded(value) if isinstance(value, np.ndarray) else _plain(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(values), encoding="utf-8")
    os.replace(partial, path)
    return path


def _rounded(values: np.ndarray) -> Any:
    return [_rounded(row) for row in values] if values.ndim > 1 else [float(f"{value:.7g}") for value in values]


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def find(checkpoint: Path) -> Path | None:
    """Where `vlp calibrate` leaves the gate of a checkpoint: RUN/calibration/gate.json; None if it is not there."""
    for run in (checkpoint, checkpoint.parent.parent):
        path = run / "calibration" / FILE_NAME
        if path.is_file():
            return path
    return None


def load(path: Path | str) -> Gate:
    """The gate in a file.

    Raises:
        DataError: for a file that is missing or is no gate of this version.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the gate: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path}: not a gate: broken JSON; run vlp calibrate again") from None
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION:
        raise DataError(f"{path}: not a gate of version {SCHEMA_VERSION}; run vlp calibrate again")
    try:
        return _parsed(values)
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{path}: the gate is damaged; run vlp calibrate again") from None


def _parsed(values: Mapping[str, Any]) -> Gate:
    arrays = {name: np.asarray(values[name], dtype=np.float64) for name in _ARRAYS}
    gate = Gate(
        model=str(values["model"]),
        views=values["views"],
        reasons=tuple(values["reasons"]),
        residual=float(values["residual"]),
        middle=_numbers(values["middle"]),
        limit=_numbers(values["limit"]),
        facts=MappingProxyType(dict(values["facts"])),
        **arrays,
    )
    _check(gate)
    return gate


_ARRAYS = ("centre", "scale", "basis", "weights", "bias", "usual", "spread", "directions")


def _numbers(values: Mapping[Any, Any]) -> Mapping[Reason, float]:
    return MappingProxyType({name: float(value) for name, value in values.items()})


def _check(gate: Gate) -> None:
    """Raises ValueError unless the numbers fit together."""
    (width,), (components, basis_width) = gate.centre.shape, gate.basis.shape
    shapes = {
        "scale": (width,), "basis": (components, width), "weights": (len(gate.reasons), components),
        "bias": (len(gate.reasons),), "usual": (components,), "directions": (len(gate.spread), components),
    }  # fmt: skip
    if basis_width != width or any(getattr(gate, name).shape != shape for name, shape in shapes.items()):
        raise ValueError("shapes")
    known: Sequence[str] = get_args(Reason)
    asked = {*gate.reasons, "out_of_distribution"}
    if gate.views not in get_args(Views) or not asked <= set(known) or gate.residual <= 0:
        raise ValueError("names")
    if not asked == set(gate.middle) == set(gate.limit) or any(gate.limit[one] <= gate.middle[one] for one in asked):
        raise ValueError("limits")
    if (
        not all(np.isfinite(getattr(gate, name)).all() for name in _ARRAYS)
        or not min(gate.scale.min(), gate.spread.min()) > 0
    ):
        raise ValueError("numbers")
