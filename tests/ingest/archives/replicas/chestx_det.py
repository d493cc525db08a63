"""A miniature ChestX-Det: both files, boxes and polygons in 1024 pixels, a healthy image, names of 13 findings."""

import json
from pathlib import Path
from typing import Any

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica

SQUARE = [[512, 256], [768, 256], [768, 512], [512, 512]]
TRIANGLE = [[0, 0], [1023, 0], [0, 1023], [0, 500]]
TRAIN: list[dict[str, Any]] = [
    {"file_name": "61001.png", "syms": [], "boxes": [], "polygons": []},
    {
        "file_name": "61002.png",
        "syms": ["Effusion", "Effusion", "Diffuse Nodule", "Calcification"],
        "boxes": [[512, 256, 768, 512], [0, 0, 1023, 1023], [0, 0, 1023, 1023], [512, 256, 768, 512]],
        "polygons": [SQUARE, TRIANGLE, TRIANGLE, SQUARE],
    },
    # Faults: names without boxes, an outline of two corners, no file, a box that is a word.
    {"file_name": "61003.png", "syms": ["Mass"], "boxes": [], "polygons": []},
    {"file_name": "61004.png", "syms": ["Mass"], "boxes": [[1, 1, 5, 5]], "polygons": [[[1, 1], [5, 5]]]},
    {"file_name": "61005.png", "syms": [], "boxes": [], "polygons": []},
    {"file_name": "61006.png", "syms": ["Mass"], "boxes": ["here"], "polygons": [SQUARE]},
]
TEST: list[dict[str, Any]] = [
    {"file_name": "36199.png", "syms": ["Fracture"], "boxes": [[512, 256, 768, 512]], "polygons": [SQUARE]},
]


def build(folder: Path) -> Replica:
    (folder / "ChestX_Det_train.json").write_text(json.dumps(TRAIN))
    (folder / "ChestX_Det_test.json").write_text(json.dumps(TEST))
    for place, records in (("train_data", TRAIN), ("test_data", TEST)):
        for record in records:
            if record["file_name"] != "61005.png":
                write_image(folder / place / record["file_name"], seed=int(record["file_name"][:-4]))
    return Replica(
        source={"kind": "chestx_det", "path": folder},
        studies=3,
        persons=3,
        faults={"bad_row": 2, "bad_box": 1, "missing_image": 1},
        secrets=("61001", "61002", "61003", "61004", "61005", "61006", "36199"),
    )
