"""A miniature archive in COCO's JSON: boxes, polygons, run lengths plain and compressed, a crowd, folders of images."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica
from vlp.records import Mask

SIDE = 64
NAMES = (
    "health/k7311_1.png",  # nothing drawn
    "sick/k7312_1.png",  # everything drawn
    "sick/k7312_2.png",  # the same person; in another folder than stated
    "sick/k7313_1.png",  # at half the size
    # Faults: a box outside, a broken outline, no file, an unknown category.
    "sick/k7314_1.png",
    "sick/k7315_1.png",
    "sick/k7316_1.png",
    "sick/k7317_1.png",
)
CATEGORIES = ({"id": 1, "name": "ActiveTuberculosis"}, {"id": 3, "name": "Effusion"}, {"id": 7, "name": "Marker"})


def square_counts(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    pixels = np.zeros((SIDE, SIDE), dtype=bool)
    pixels[y0:y1, x0:x1] = True
    return list(Mask.encode(pixels).counts)


def compress(counts: list[int]) -> str:
    """COCO's compressed form, written from its description: five bits and a sign to a character."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        while True:
            low, value = value & 31, value >> 5
            done = value == (-1 if low & 16 else 0)
            text += chr(48 + low + (0 if done else 32))
            if done:
                break
    return text


def mark(image: int, category: int, **drawn: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "iscrowd": 0, "area": 1.0} | drawn


ANNOTATIONS: tuple[dict[str, Any], ...] = (
    mark(2, 1, bbox=[8.5, 4, 16, 20.25]),
    mark(2, 3, bbox=[0, 0, 8, 8], segmentation=[[0, 0, 8, 0, 8, 8, 0, 8], [20, 20, 24, 20, 24, 24, 20, 24]]),
    mark(2, 3, segmentation={"size": [SIDE, SIDE], "counts": square_counts(10, 20, 30, 40)}),
    mark(2, 1, segmentation={"size": [SIDE, SIDE], "counts": compress(square_counts(0, 48, 64, 64))}),
    mark(2, 1, iscrowd=1, segmentation={"size": [SIDE, SIDE], "counts": square_counts(1, 1, 60, 60)}),
    mark(2, 7, bbox=[0, 0, 5, 5]),
    mark(4, 3, bbox=[32, 16, 32.5, 48]),
    mark(5, 3, bbox=[40, 16, 32, 48]),
    mark(6, 3, segmentation=[[1, 1, 2, 2]]),
    mark(8, 4, bbox=[1, 1, 2, 2]),
    mark(99, 3, bbox=[1, 1, 2, 2]),
)


def build(folder: Path) -> Replica:
    images = [
        {"id": number, "file_name": name, "width": SIDE, "height": SIDE} for number, name in enumerate(NAMES, start=1)
    ]
    content = {"info": {}, "images": images, "annotations": ANNOTATIONS, "categories": CATEGORIES}
    (folder / "annotations.json").write_text(json.dumps(content))
    for number, name in enumerate(NAMES):
        if "k7316" not in name:
            place = name.replace("sick", "moved") if "k7312_2" in name else name
            write_image(folder / "imgs" / place, seed=number, side_px=SIDE // 2 if "k7313" in name else SIDE)
    return Replica(
        source={
            "kind": "coco",
            "path": folder / "annotations.json",
            "images": folder / "imgs",
            "categories": {"ActiveTuberculosis": "pneumonia", "Marker": None},
            "person": "(k[0-9]+)_",
        },
        studies=4,
        persons=3,
        faults={"bad_box": 3, "missing_image": 1},
        secrets=("k7311", "k7312", "k7313", "k7314", "k7315", "k7316", "k7317"),
    )
