"""Whether pixels look like a chest radiograph, the right way up and with bright bone, whatever a header says.

A radiograph of a chest from the front, reduced to 12 x 12 grey ranks, resembles the mean of all others: dark corners,
two dark lungs, a bright middle that widens downwards.  The resemblance is a rank correlation with that mean, so that
brightness, contrast and window do not matter, and inverting a film changes its sign.  Turning the film tells whether
another orientation would fit better.

The check is coarse and leans towards accepting: lungs that are white all over must not be taken for no lungs.  On 437
real frontal films of four archives that the mean was not made from it refuses 1 as it is, all once they are inverted
and 94 to 95 % once they are turned (tests/ingest/test_appearance.py measures it).  A mirrored film cannot be told at
this size, and most pictures of other things that are dark outside and bright in the middle pass: it is no substitute
for a trained gate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from scipy.stats import rankdata

from vlp.ingest.image_error import ImageError

SIDE = 12
MARGIN = 0.2
"""How much better another orientation or polarity must fit before a film is taken to have it."""
MIN_TURNED = 0.5
"""How well another orientation must fit; films with white lungs fit several a little."""
MIN_LIKENESS = 0.15
"""A picture that resembles a chest less than that in every orientation and polarity is none."""

_MEAN = np.asarray(
    [
        [-94, -92, -88, -78, -39, 13, 14, -35, -76, -86, -89, -91],
        [-68, -50, -45, -43, -29, 6, 8, -28, -42, -43, -46, -64],
        [-24, 0, -7, -32, -40, -4, 2, -41, -38, -11, 0, -20],
        [1, 19, -5, -51, -53, -1, 12, -51, -57, -13, 15, 0],
        [1, 20, -10, -56, -50, 12, 28, -41, -58, -18, 16, -2],
        [-14, 14, -12, -48, -30, 32, 46, -13, -45, -18, 10, -17],
        [-29, 7, -10, -32, -8, 50, 63, 19, -21, -14, 3, -31],
        [-37, 4, 2, -4, 18, 65, 74, 47, 9, -4, -1, -40],
        [-47, 2, 23, 33, 51, 79, 82, 63, 34, 12, -6, -49],
        [-55, 1, 45, 65, 77, 91, 90, 75, 56, 30, -8, -59],
        [-61, 2, 57, 81, 91, 98, 97, 86, 71, 44, -8, -65],
        [-59, 6, 62, 85, 94, 99, 97, 90, 77, 51, -4, -63],
    ]
)
"""Mean rank of each cell over the 861 images of the training split of the NIH ChestX-ray14 sample that the project is
tried on, scaled so that the largest is 99; a test makes it again.  NIH puts no restriction on the use of its images."""

Verdict = Literal["chest", "inverted_polarity", "rotated_image", "not_chest_radiograph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """How a picture compares with a frontal chest radiograph."""

    likeness: float
    """Rank correlation with the mean film, in [-1, 1]; strongly negative for an inverted film."""
    turned: tuple[float, float, float]
    """The same after a quarter turn counter-clockwise, a half, and three quarters."""

    def verdict(self, *, frontal: bool = True) -> Verdict:
        """What the picture is taken for.

        Args:
            frontal: Whether it may be judged by the mean of frontal films in full; of other views, which resemble it
                less, only an inverted polarity can be told.
        """
        turned = max(map(abs, self.turned)) if frontal else 0.0
        if -self.likeness > max(self.likeness, turned - 2 * MARGIN) + MARGIN:
            return "inverted_polarity"
        if turned >= MIN_TURNED and turned > abs(self.likeness) + MARGIN:
            return "rotated_image"
        if frontal and max(abs(self.likeness), turned) < MIN_LIKENESS:
            return "not_chest_radiograph"
        return "chest"


def examine(pixels: UInt8[np.ndarray, "rows columns"]) -> Appearance:
    """How `pixels`, bone bright, compare with a frontal chest radiograph; about a millisecond for a large image."""
    ranks = reduced_ranks(pixels)
    mean = _unit(_MEAN.astype(np.float64))
    upright, *turned = (float((np.rot90(ranks, turns) * mean).sum()) for turns in range(4))
    return Appearance(likeness=upright, turned=(turned[0], turned[1], turned[2]))


def reduced_ranks(pixels: UInt8[np.ndarray, "rows columns"]) -> Float[np.ndarray, "side side"]:
    """The picture as `SIDE` x `SIDE` ranks of its mean grey values, centred, of unit length (zero if it is flat)."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return _unit(rankdata(small.ravel()).reshape(SIDE, SIDE))


def _unit(values: Float[np.ndarray, "side side"]) -> Float[np.ndarray, "side side"]:
    centred = values - values.mean()
    length = float(np.linalg.norm(centred))
    return centred / length if length else centred


def require_chest(pixels: UInt8[np.ndarray, "rows columns"], where: Path | str, *, frontal: bool = True) -> None:
    """Passes pixels that look like an upright chest radiograph with bright bone.

    Raises:
        ImageError: "inverted_polarity", "rotated_image" or "not_chest_radiograph".
    """
    verdict = examine(pixels).verdict(frontal=frontal)
    if verdict != "chest":
        raise ImageError(verdict, f"{where}: {_REASONS[verdict]}")


_REASONS: dict[Verdict, str] = {
    "inverted_polarity": "the pixels look like a film with dark bone; is its polarity wrong?",
    "rotated_image": "the pixels look like a chest radiograph that lies on its side or upside down",
    "not_chest_radiograph": "the pixels do not look like a chest radiograph",
}
