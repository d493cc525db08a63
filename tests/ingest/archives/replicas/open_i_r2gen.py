"""A miniature of R2Gen's copy of Open-I: one file with splits and cleaned reports, images called 0 and 1."""

import json
from pathlib import Path
from typing import Any

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica


def record(name: str, report: str, images: int, split: str) -> dict[str, Any]:
    return {"id": name, "report": report, "image_path": [f"{name}/{n}.png" for n in range(images)], "split": split}


RECORDS: dict[str, list[Any]] = {
    "train": [
        record("CXR70061_IM-0942", "heart size is normal . snodgrass .", 2, "train"),
        record("CXR70062_IM-0943", "no effusion .", 2, "train"),
        record("CXR70065_IM-0946", "no image .", 0, "train"),
    ],
    "val": [record("CXR70063_IM-0944", "clear lungs .", 2, "val"), {"id": 70066, "report": None}],
    "test": [record("CXR70064_IM-0945", "", 1, "test")],
}


def build(folder: Path) -> Replica:
    (folder / "annotation.json").write_text(json.dumps(RECORDS))
    for split, records in RECORDS.items():
        for entry in records:
            for file in entry.get("image_path", ()):
                write_image(folder / "images" / file, seed=len(split) + len(file))
    (folder / "images" / "CXR70062_IM-0943" / "1.png").unlink()
    return Replica(
        source={"kind": "open_i", "path": folder},
        studies=3,
        persons=3,
        faults={"bad_row": 1, "missing_image": 1, "excluded_no_image": 1},
        secrets=("70061", "70062", "70063", "70064", "70066", "snodgrass"),
    )
