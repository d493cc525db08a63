"""What pointing at the usual place reaches: the mean training mask of a finding, which never looks at the image."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from vlp.data import ShardReader
from vlp.evaluate import grounding
from vlp.log import progress
from vlp.records import FRONTAL, Study

FRAME = 96
"""Side of the square frame that all images are scaled to before their masks are averaged."""
MOST_STUDIES = 6000
"""Training studies that are looked at, the first in key order (keys are hashes); a mean needs no more."""

Priors = Mapping[str, Float[np.ndarray, "frame frame"]]
"""Per region name the mean mask, scaled so that its highest value is 1."""


def mean_masks(reader: ShardReader, names: Sequence[str]) -> Priors:
    """The mean mask of every region name on frontal training images; none for names without a region there.

    Raises:
        DataError: for a mask of another size than its image.
    """
    total = {name: np.zeros((FRAME, FRAME)) for name in names}
    found = dict.fromkeys(names, 0)
    keys = reader.keys("train")[:MOST_STUDIES]
    for key in progress(keys, description="training masks", unit="studies"):
        for name, mask in _masks(reader.study(key), set(names)):
            total[name] += cv2.resize(mask.astype(np.float32), (FRAME, FRAME), interpolation=cv2.INTER_AREA)
            found[name] += 1
    return {name: (total[name] / total[name].max()).astype(np.float32) for name in names if found[name]}


def measured(
    row: Mapping[str, Any], prior: Float[np.ndarray, "frame frame"], truth: Bool[np.ndarray, "rows columns"]
) -> dict[str, Any]:
    """The row of a map that was measured against a region, as the mean mask would have had it."""
    rows, columns = truth.shape
    values = cv2.resize(prior, (columns, rows), interpolation=cv2.INTER_LINEAR)
    return {**row, "text": "", **grounding.measure(values, truth)}


def _masks(study: Study, names: set[str]) -> list[tuple[str, np.ndarray]]:
    """(name, mask) of every frontal image of a study that has a region of that name."""
    masks = []
    for image in (one for one in study.images if one.view in FRONTAL):
        for name in sorted({region.finding for region in study.regions if region.image == image.id} & names):
            mask = grounding.true_mask(
                study.regions, finding=name, image=image.id, rows=image.rows, columns=image.columns
            )
            if mask is not None:
                masks.append((name, mask))
    return masks
