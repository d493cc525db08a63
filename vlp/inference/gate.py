"""Whether an image is one the model may answer for: an upright, whole, frontal chest radiograph with bright bone.

A gate is fitted on films of patients of their own (`vlp.calibrate.gate`) and kept as plain numbers in `gate.json`.  It
looks at what the model makes of an image (the image tower's pooled vector and the one of the joint space) and at a few
cheap figures of the pixels themselves, and refuses with a reason.  Research use, not a medical device.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.stats import rankdata

from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError
from vlp.inference.calibration import folder_of

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
_UNKNOWN: Reason = "out_of_distribution"

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
_EDGE_SIDE, _EDGE_CELLS, _EDGE_ANGLES = 64, 4, 8
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
        said = {"accepted": self.accepted, "reason": self.reason, "message": self.message}
        return {**said, "score": self.score, "scores": dict(self.scores)}


def inputs(looked: "Looked") -> Float[np.ndarray, "image input"]:
    """What a gate judges images by: the model's two pooled vectors, a thumbnail, edges, and figures of the pixels.

    Raises:
        CheckpointError: if the model gives anything but finite numbers.
    """
    pixels = [_content(seen) for seen in looked.seen]
    joint = looked.features.pooled.float().cpu().numpy()
    blocks = (
        joint / np.maximum(np.linalg.norm(joint, axis=1, keepdims=True), 1e-12),
        looked.tower.float().cpu().numpy(),
        np.stack([_thumbnail(content) for content in pixels]),
        np.stack([_edges(content) for content in pixels]),
        np.stack([_figures(content, seen) for content, seen in zip(pixels, looked.seen, strict=True)]),
    )
    values = np.concatenate([block.astype(np.float64) for block in blocks], axis=1)
    if not np.isfinite(values).all():  # which no comparison with a limit would notice
        raise CheckpointError("the model's features are not finite numbers; its training may have diverged")
    return values


def block_sizes(looked: "Looked") -> tuple[int, ...]:
    """How many of the numbers in a row of `inputs` each of its parts has, in order."""
    joint, tower = looked.features.pooled.shape[1], looked.tower.shape[1]
    return joint, tower, _THUMBNAIL**2, _EDGE_CELLS**2 * _EDGE_ANGLES, _NUM_FIGURES


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


def _edges(content: np.ndarray) -> np.ndarray:
    """Square roots of the shares that edges of each part and direction have in all (Dalal and Triggs, 2005)."""
    small = cv2.resize(content, (_EDGE_SIDE, _EDGE_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    angle = np.floor(np.arctan2(down, across) / np.pi * _EDGE_ANGLES).astype(int) % _EDGE_ANGLES
    part = np.arange(_EDGE_SIDE) * _EDGE_CELLS // _EDGE_SIDE
    cell = (part[:, None] * _EDGE_CELLS + part) * _EDGE_ANGLES + angle
    size = _EDGE_CELLS**2 * _EDGE_ANGLES
    strength = np.bincount(cell.ravel(), np.hypot(across, down).ravel(), minlength=size)
    shares: np.ndarray = np.sqrt(strength / max(float(strength.sum()), 1e-9))
    return shares


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


def plain_reason(seen: SeenImage) -> Reason | None:
    """What rules out an image before anything that was learned is asked."""
    rows, columns = seen.placement.original
    short, long = min(rows, columns), max(rows, columns)
    if long > LARGEST_ASPECT * short or short < SMALLEST_SIDE * min(seen.placement.model):
        return "bad_geometry"
    low, high = np.percentile(_content(seen), (1, 99))
    return "no_contrast" if high - low < SMALLEST_CONTRAST else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Distance:
    """How far one part of the inputs is from good films, as in probabilistic PCA (Tipping and Bishop, 1999)."""

    centre: Float[np.ndarray, " input"]
    scale: Float[np.ndarray, " input"]
    directions: Float[np.ndarray, "direction input"]
    spread: Float[np.ndarray, " direction"]
    """Standard deviation of good films along the directions in which they differ most."""
    rest: float
    """Mean squared length of what good films leave outside these directions."""

    def __call__(self, values: Float[np.ndarray, "image input"]) -> Float[np.ndarray, " image"]:
        """The logarithm of the squared distance: mean along the directions, plus the share outside of them."""
        standard = (values - self.centre) / self.scale
        along = standard @ self.directions.T
        outside = np.maximum((standard**2).sum(axis=1) - (along**2).sum(axis=1), 0.0)
        squared = ((along / self.spread) ** 2).mean(axis=1) + outside / self.rest
        distance: np.ndarray = np.log(np.maximum(squared, 1e-12))
        return distance


@dataclass(frozen=True, kw_only=True, eq=False)
class Gate:
    """A fitted gate: standardised inputs, a projection, one linear score per kind, and distances for unknown kinds."""

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
    distances: tuple[Distance, ...]
    """How far the parts of the inputs are from those of good films: for what is like no kind that was learned."""
    middle: Float[np.ndarray, " detector"]
    limit: Float[np.ndarray, " detector"]
    """Raw values that become score 0 and score 1, of every column that `raw` gives."""
    facts: Mapping[str, Any]
    """What it was fitted on and what that gave: for the reader of the file, not for judging."""

    @property
    def detectors(self) -> tuple[Reason, ...]:
        """What each column of `raw` speaks for: every learned reason once, then each of the distances."""
        return (*dict.fromkeys(self.reasons), *(_UNKNOWN for _ in self.distances))

    def judge(self, looked: "Looked") -> tuple[Verdict, ...]:
        """A verdict on each image that `Engine.looked` has looked at, in order."""
        raw = self.raw(inputs(looked))
        return tuple(
            self._verdict(plain_reason(seen), values, scores)
            for seen, values, scores in zip(looked.seen, raw, self.scored(raw), strict=True)
        )

    def raw(self, values: Float[np.ndarray, "image input"]) -> Float[np.ndarray, "image detector"]:
        """What was learned of `inputs`, before it is brought to the scale on which 1 is refused.

        Of a reason, the log odds of all its kinds of pictures together against good films; of a distance, its log.
        """
        if values.shape[1] != len(self.centre):
            raise CheckpointError("the gate was fitted by another version of vlp; run vlp calibrate again")
        components = ((values - self.centre) / self.scale) @ self.basis.T
        logits = components @ self.weights.T + self.bias
        of_kind = np.array(self.reasons)
        learned = [np.logaddexp.reduce(logits[:, of_kind == one], axis=1) for one in dict.fromkeys(self.reasons)]
        far, start = [], 0
        for distance in self.distances:
            stop = start + len(distance.centre)
            far.append(distance(values[:, start:stop]))
            start = stop
        return np.stack([*learned, *far], axis=1)

    def scored(self, raw: Float[np.ndarray, "image detector"]) -> Float[np.ndarray, "image detector"]:
        """What `raw` gives on the scale on which 0 is the middle of good films and 1 is refused."""
        scores: np.ndarray = (raw - self.middle) / (self.limit - self.middle)
        return scores

    def refuse_other(self, engine: "Engine") -> None:
        """Passes the engine of the model that the gate was fitted with.

        Raises:
            CheckpointError: for any other model.
        """
        if engine.fingerprint != self.model:
            raise CheckpointError("the gate was fitted with another model; run vlp calibrate for this one")

    def _verdict(self, plain: Reason | None, raw: np.ndarray, scores: np.ndarray) -> Verdict:
        by_reason: dict[Reason, float] = {}
        likely: dict[Reason, float] = {}
        for one, value, score in zip(self.detectors, raw, scores, strict=True):
            by_reason[one] = max(float(score), by_reason.get(one, -math.inf))
            if score >= 1.0:
                # A distance says only that something is wrong; where a kind of picture fits, that is the better answer.
                likely[one] = -math.inf if one == _UNKNOWN else float(value)
        named = sorted(likely, key=likely.__getitem__)
        reason = plain or (named[-1] if named else None)
        score = max(by_reason.values())
        return Verdict(
            accepted=reason is None,
            reason=reason,
            score=score if plain is None else max(score, 1.0),
            scores=MappingProxyType(by_reason),
        )


def save(gate: Gate, path: Path) -> Path:
    """Writes the gate as JSON, whole or not at all."""
    values = {"schema_version": SCHEMA_VERSION, "note": "Research use, not a medical device.", **_plain(gate)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, allow_nan=False), encoding="utf-8")
    os.replace(partial, path)
    return path


def _plain(value: Any) -> Any:
    """Plain values of JSON; numbers to seven digits, which is more than the model's own arithmetic keeps."""
    if isinstance(value, Gate | Distance):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def find(checkpoint: Path) -> Path | None:
    """Where `vlp calibrate` leaves the gate of a checkpoint: RUN/calibration/gate.json; None if it is not there."""
    path = folder_of(checkpoint) / FILE_NAME
    return path if path.is_file() else None


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
    gate = Gate(
        model=str(values["model"]),
        views=values["views"],
        reasons=tuple(values["reasons"]),
        distances=tuple(
            Distance(rest=float(one["rest"]), **_arrays(one, ("centre", "scale", "directions", "spread")))
            for one in values["distances"]
        ),
        facts=MappingProxyType(dict(values["facts"])),
        **_arrays(values, ("centre", "scale", "basis", "weights", "bias", "middle", "limit")),
    )
    _check(gate)
    return gate


def _arrays(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    arrays = {name: np.asarray(values[name], dtype=np.float64) for name in names}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("numbers")
    return arrays


def _check(gate: Gate) -> None:
    """Raises ValueError unless the numbers fit together."""
    (width,), (components, _) = gate.centre.shape, gate.basis.shape
    kinds, detectors = len(gate.reasons), len(gate.detectors)
    expected = {
        "scale": (width,), "basis": (components, width), "weights": (kinds, components), "bias": (kinds,),
        "middle": (detectors,), "limit": (detectors,),
    }  # fmt: skip
    if any(getattr(gate, name).shape != shape for name, shape in expected.items()):
        raise ValueError("shapes")
    if gate.views not in get_args(Views) or not set(gate.reasons) <= set(get_args(Reason)):
        raise ValueError("names")
    if not (gate.scale > 0).all() or not (gate.limit > gate.middle).all():
        raise ValueError("limits")
    if sum(len(distance.centre) for distance in gate.distances) > width:
        raise ValueError("distances")
    for distance in gate.distances:
        shape = (len(distance.spread), len(distance.centre))
        if distance.scale.shape != shape[1:] or distance.directions.shape != shape:
            raise ValueError("shapes")
        if not min(distance.scale.min(), distance.spread.min(), distance.rest) > 0:
            raise ValueError("limits")
