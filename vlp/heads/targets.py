"""What a head is to find: the classes of an archive, the images that say something of them, and their masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional

from vlp.data.reader import ShardReader
from vlp.evaluate.grounding import true_mask
from vlp.inference.lungs import ANATOMY
from vlp.log import progress
from vlp.prompts.descriptors import DescriptorSet
from vlp.records import Certainty, Study
from vlp.reports.findings import VOCABULARY
from vlp.tensors import Placement

_FULL = 255
"""What a pixel holds that is wholly covered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One image, and what is known of the classes on it."""

    key: str
    index: int
    patient: str
    masks: Mapping[str, Bool[np.ndarray, "rows columns"]]
    """Class -> where it is, in original pixels."""
    kinds: Mapping[str, str]
    """Class -> what the mask was made from: "mask", "box" or "box mask"."""
    absent: frozenset[str]
    """Classes that are not on it."""


def read_items(
    reader: ShardReader,
    keys: Sequence[str],
    *,
    classes: Sequence[str] | None,
    views: Literal["frontal", "all"],
    boxes: bool,
) -> list[Item]:
    """The images of some studies that say something of the classes (None: of any).

    A region is a mask.  A finding labelled absent is not on the image.  Anything else is not known and takes no part,
    a finding that is present without a region of it among them.

    Raises:
        DataError: for a mask that does not fit its image.
    """
    items = []
    for key in progress(keys, description="regions", unit="studies"):
        study, sample = reader.study(key), reader.sample(key)
        for index in sample.frontal[:1] if views == "frontal" else range(len(sample.views)):
            item = _item(study, key, index, classes=classes, boxes=boxes)
            if item.masks or item.absent:
                items.append(item)
    return items


def classes_of(items: Sequence[Item]) -> tuple[str, ...]:
    """The classes that have a mask somewhere, sorted."""
    return tuple(sorted({name for item in items for name in item.masks}))


def prompt_of(name: str, descriptors: DescriptorSet) -> str:
    """The sentence that asks for a class, as zero-shot grounding asks for it."""
    if name in descriptors.findings or name in VOCABULARY:
        return descriptors.of(name, prompts="finding")[0].positive
    if name in ANATOMY:
        return ANATOMY[name][0]
    return f"There are {name}." if name.endswith("s") else f"There is the {name}."


def coverage(
    mask: Bool[np.ndarray, "rows columns"], placement: Placement, *, size: tuple[int, int]
) -> Float[np.ndarray, "fine_rows fine_columns"]:
    """Share of every cell of the model's frame, cut into `size` (rows, columns), that a mask covers; float32.

    The mask is read at the centre of every model pixel, bilinearly, and averaged over the cells.
    """
    (a, b, c), (d, e, f) = placement.matrix
    # The library counts from pixel centres, we from corners: x' + 1/2 = a (x + 1/2) + b (y + 1/2) + c.
    matrix = np.array([[a, b, c + (a + b - 1.0) / 2.0], [d, e, f + (d + e - 1.0) / 2.0]])
    rows, columns = placement.model
    seen = cv2.warpAffine(mask.astype(np.float32), matrix, (columns, rows), flags=cv2.INTER_LINEAR)
    cells = functional.adaptive_avg_pool2d(torch.from_numpy(seen)[None, None], size)
    result: np.ndarray = cells[0, 0].numpy()
    return result


class Targets:
    """The masks of some items on the grid of a head, kept as bytes: most images have few of the classes."""

    def __init__(
        self, items: Sequence[Item], placements: Sequence[Placement], classes: Sequence[str], *, size: tuple[int, int]
    ) -> None:
        self._classes = tuple(classes)
        self._size = size
        self._masks: list[dict[int, UInt8[np.ndarray, "rows columns"]]] = []
        self._absent = [[column for column, name in enumerate(classes) if name in item.absent] for item in items]
        self._valid: list[UInt8[np.ndarray, "rows columns"]] = []
        whole: dict[Placement, np.ndarray] = {}
        for item, placement in zip(items, placements, strict=True):
            if placement not in whole:
                whole[placement] = _bytes(coverage(np.ones(placement.original, dtype=bool), placement, size=size))
            self._valid.append(whole[placement])
            self._masks.append(
                {
                    column: _bytes(coverage(item.masks[name], placement, size=size))
                    for column, name in enumerate(classes)
                    if name in item.masks
                }
            )

    @property
    def num_masks(self) -> int:
        """Pairs of an image and a class that have a mask."""
        return sum(len(masks) for masks in self._masks)

    def of(
        self, rows: Sequence[int]
    ) -> tuple[
        Float[Tensor, "image class rows columns"], Bool[Tensor, "image class"], Float[Tensor, "image rows columns"]
    ]:
        """(masks, which pairs are known, share of every cell that shows the image) of some items."""
        truth = np.zeros((len(rows), len(self._classes), *self._size), dtype=np.float32)
        known = np.zeros(truth.shape[:2], dtype=bool)
        for place, row in enumerate(rows):
            known[place, self._absent[row]] = True
            for column, mask in self._masks[row].items():
                truth[place, column] = mask / np.float32(_FULL)
                known[place, column] = True
        valid = np.stack([self._valid[row] for row in rows]) / np.float32(_FULL)
        return torch.from_numpy(truth), torch.from_numpy(known), torch.from_numpy(valid)


def _item(study: Study, key: str, index: int, *, classes: Sequence[str] | None, boxes: bool) -> Item:
    image = study.images[index]
    masks, kinds, silent = {}, {}, set()
    here = [region for region in study.regions if region.image == image.id]
    names = {region.finding for region in here}
    for name in sorted(names if classes is None else names & set(classes)):
        own = [region for region in here if region.finding == name]
        if not boxes:
            own = [region for region in own if region.kind == "mask"]
        mask = true_mask(own, finding=name, image=image.id, rows=image.rows, columns=image.columns)
        if mask is None:
            silent.add(name)
            continue
        masks[name] = mask
        kinds[name] = " ".join(sorted({region.kind for region in own} - {"point"}))
    said = {name for name, certainty in study.labels.items() if certainty is Certainty.ABSENT}
    asked = said if classes is None else said & set(classes)
    return Item(
        key=key,
        index=index,
        patient=study.person.id,
        masks=masks,
        kinds=kinds,
        absent=frozenset(asked - set(masks) - silent),
    )


def _bytes(shares: Float[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    result: np.ndarray = np.rint(shares * _FULL).astype(np.uint8)
    return result
