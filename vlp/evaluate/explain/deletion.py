"""Whether the patches a map points at are those that the score rests on: they are taken away, or brought in, in order.

After Petsiuk et al. (2018).  Deletion: patches are replaced, the map's highest first; the similarity of the map's own
sentence should fall faster than in random order.  Insertion: the other way round.  What stands in for a patch is the
mean of the image, or the image blurred.  Patches in random order leave a chequered picture, which a model has seen even
less of than a patch of grey; so the map moved elsewhere on the image is tried as well, and reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from vlp.data.transforms import SeenImage
from vlp.evaluate.explain.sample import Case, Sample
from vlp.evaluate.explain.table import Row, estimated, missing
from vlp.log import progress
from vlp.metrics.bootstrap import patient_bootstrap, weighted_mean

Fill = Literal["mean", "blur"]
Way = Literal["deletion", "insertion"]
Order = Literal["map", "random", "moved"]

FILLS: tuple[Fill, ...] = ("mean", "blur")
WAYS: tuple[Way, ...] = ("deletion", "insertion")
STEPS = 10
_RANDOM_ORDERS = 2
_BLUR_SHARE = 1 / 12
"""Standard deviation of the blur, of the image's longer side: wide enough that no finding is left."""
_MOST_CASES = 40
SHARES: Float[np.ndarray, " step"] = np.arange(STEPS + 1) / STEPS
"""Of the patches that are replaced (or brought in) at each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Similarity while patches go or come."""

    values: dict[tuple[Way, Fill, Order], Float[np.ndarray, "case step"]]
    """Random order: the mean over its draws."""
    patients: tuple[str, ...]
    """Of every case."""

    def gain(self, way: Way, fill: Fill, against: Order) -> Float[np.ndarray, " case"]:
        """Area between the map's curve and another order's, positive where the map does better."""
        difference = area(self.values[way, fill, "map"]) - area(self.values[way, fill, against])
        return -difference if way == "deletion" else difference


def measure(sample: Sample, *, resamples: int, seed: int) -> tuple[list[Row], Curves | None]:
    """What the map's order gains over random order, with its rule, and over the map moved elsewhere."""
    cases = sample.one_each(most=_MOST_CASES)
    if not cases:
        return [missing(way, "area gained on random order", "no study has a present finding") for way in WAYS], None
    curves = draw_curves(sample, cases, seed=seed)
    rows = []
    for way in WAYS:
        for fill in FILLS:
            for against, words in (("random", "random order"), ("moved", "the map moved elsewhere")):
                estimate = patient_bootstrap(
                    weighted_mean(curves.gain(way, fill, against)),  # type: ignore[arg-type]
                    curves.patients,
                    resamples=resamples,
                    seed=seed,
                )
                method = f"area between curves of the similarity over the share of patches, {STEPS} steps, paired"
                above = 0.0 if against == "random" else None
                what = f"area gained on {words}, {fill}"
                rows.append(estimated(way, what, estimate, method=method, above=above))
    return rows, curves


def draw_curves(sample: Sample, cases: Sequence[Case], *, seed: int) -> Curves:
    """The curves of every case."""
    values: dict[tuple[Way, Fill, Order], list[np.ndarray]] = {}
    for number, case in enumerate(progress(cases, description="patches in and out", unit="images")):
        generator = np.random.default_rng((seed, number))
        for key, curve in _of_case(sample, case, generator).items():
            values.setdefault(key, []).append(curve)
    return Curves(
        values={key: np.stack(curves) for key, curves in values.items()},
        patients=tuple(sample.patients[case.number] for case in cases),
    )


def area(curve: Float[np.ndarray, "*shape step"]) -> Float[np.ndarray, "*shape"]:
    """The area under a curve over `SHARES`, by trapezoids."""
    result: np.ndarray = np.trapezoid(curve, SHARES, axis=-1)
    return result


def ranks(values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Each patch's place in descending order as a share in [0, 1), ties row by row; NaN where the map is."""
    free = np.isfinite(values)
    places = np.full(values.shape, np.nan)
    order = np.argsort(-values[free], kind="stable")
    shares = np.empty(order.size)
    shares[order] = np.arange(order.size) / order.size
    places[free] = shares
    return places


def moved(values: Float[np.ndarray, "rows columns"], generator: np.random.Generator) -> np.ndarray:
    """The map with its shape, elsewhere: rolled by a quarter to three quarters of either side; NaN stays in place."""
    shifts = [int(generator.integers(max(1, side // 4), max(2, side - side // 4 + 1))) for side in values.shape]
    lowest = np.nanmin(values)
    rolled = np.roll(np.nan_to_num(values, nan=lowest), shifts, axis=(0, 1))
    result: np.ndarray = np.where(np.isfinite(values), rolled, np.nan)
    return result


def replaced(
    ranked: Float[np.ndarray, "grid_rows grid_columns"], share: float, way: Way, *, size: tuple[int, int]
) -> Bool[np.ndarray, "rows columns"]:
    """The pixels that are not shown: of the first `share` of the patches, or of all others; never of padding."""
    first = ranked < share
    hidden = first if way == "deletion" else np.isfinite(ranked) & ~first
    rows, columns = (
        ((np.arange(pixels) + 0.5) * cells / pixels).astype(int)
        for pixels, cells in zip(size, ranked.shape, strict=True)
    )
    result: np.ndarray = hidden[rows][:, columns]
    return result


def filled(seen: SeenImage, fill: Fill) -> UInt8[np.ndarray, "rows columns"]:
    """What stands in for an image: its mean (padding left out), or itself blurred beyond recognition."""
    if fill == "mean":
        shown = seen.pixels if seen.padding is None else seen.pixels[~seen.padding]
        return np.full_like(seen.pixels, round(float(shown.mean())))
    blurred: np.ndarray = cv2.GaussianBlur(
        seen.pixels, (0, 0), sigmaX=_BLUR_SHARE * max(seen.pixels.shape), borderType=cv2.BORDER_REPLICATE
    )
    return blurred


def _of_case(
    sample: Sample, case: Case, generator: np.random.Generator
) -> dict[tuple[Way, Fill, Order], Float[np.ndarray, " step"]]:
    seen, text = sample.seen[case.number], sample.named(case.finding)
    values = sample.maps([text], sample.features[case.number : case.number + 1])[0, 0]
    noise = [np.where(np.isfinite(values), generator.random(values.shape), np.nan) for _ in range(_RANDOM_ORDERS)]
    orders: list[tuple[Order, np.ndarray]] = [
        ("map", ranks(values)),
        ("moved", ranks(moved(values, generator))),
        *(("random", ranks(one)) for one in noise),
    ]
    found: dict[tuple[Way, Fill, Order], np.ndarray] = {}
    for way in WAYS:
        for fill in FILLS:
            stand_in = filled(seen, fill)
            pictures = [
                seen._replace(
                    pixels=np.where(replaced(ranked, share, way, size=seen.pixels.shape), stand_in, seen.pixels)
                )
                for _, ranked in orders
                for share in SHARES
            ]
            scores = sample.engine.scores([text], sample.engine.features(pictures)[0])[0][0]
            curves = scores.reshape(len(orders), len(SHARES)).astype(np.float64)
            for name in ("map", "moved", "random"):
                rows = [row for row, (order, _) in enumerate(orders) if order == name]
                found[way, fill, name] = curves[rows].mean(axis=0)
    return found
