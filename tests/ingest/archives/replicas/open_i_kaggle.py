"""A miniature of Kaggle's copy of Open-I: a table of reports and one of images, normalised PNG."""

import csv
from pathlib import Path

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.open_i import write_projections
from tests.ingest.archives.replicas.replica import Replica

ROWS = (
    ("80051", "Pleural Effusion/left;Calcinosis/aorta", "Pleural Effusion;Calcinosis", "Chest PA and lateral",
     "Grimsdyke, \"short\nof breath\"", "", "Left effusion.", "Effusion."),
    ("80052", "normal", "normal", "AP portable chest", "#NAME?", "None", "", "No acute disease, says Wimbleby."),
    ("80053", "normal", "normal", "Chest", "", "", "Clear.", "Normal."),
    ("80054", "normal", "normal", "Chest", "", "", "Twice.", "Normal."),
    ("80054", "normal", "normal", "Chest", "", "", "Twice.", "Normal."),
)  # fmt: skip
IMAGES = (
    ("80051", "80051_IM-0001-1001", "Frontal"),
    ("80051", "80051_IM-0001-2001", "Lateral"),
    ("80052", "80052_IM-0002-1001", "Frontal"),
    ("80054", "80054_IM-0004-1001", "Frontal"),
)


def build(folder: Path) -> Replica:
    header = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
    with (folder / "indiana_reports.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((header, *ROWS))
    write_projections(folder, (f"{uid},{name}.dcm.png,{view}" for uid, name, view in IMAGES))
    for number, (_, name, _) in enumerate(IMAGES):
        write_image(folder / "images" / "images_normalized" / f"{name}.dcm.png", seed=number)
    return Replica(
        source={"kind": "open_i", "path": folder},
        studies=2,
        persons=2,
        faults={"excluded_no_image": 1, "bad_row": 1},
        secrets=("80051", "80052", "80053", "80054", "Grimsdyke", "Wimbleby"),
    )
