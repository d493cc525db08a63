"""CheXpert-v1.0-small: unknown sex, age 0, views called LL, uncertain and blank labels, a lateral view, a bad label."""

from pathlib import Path
from typing import Any

from tests.contracts.miniature import picture, write_csv
from tests.ingest.archives.replicas.replica import Replica

LABELS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
    "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
    "Support Devices",
)  # fmt: skip


def row(path: str, *about: str, **labels: str) -> dict[str, Any]:
    """A line: path, sex, age, side, projection and the labels that are not blank."""
    said = {name.replace("_", " "): value for name, value in labels.items()}
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
    return dict(zip(columns, (path, *about), strict=True)) | {name: said.get(name, "") for name in LABELS}


def build(folder: Path) -> Replica:
    top = "CheXpert-v1.0-small"
    train = [
        row(f"{top}/train/patient00011/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP",
            Pleural_Effusion="1.0", Edema="-1.0", Fracture="0.0"),
        row(f"{top}/train/patient00011/study1/view2_lateral.jpg", "Female", "68", "Lateral", "",
            Pleural_Effusion="1.0", Edema="-1.0", Fracture="0.0"),
        row(f"{top}/train/patient00011/study2/view1_frontal.jpg", "Female", "69", "Frontal", "LL", No_Finding="1.0"),
        row(f"{top}/train/patient00012/study1/view1_frontal.jpg", "Unknown", "0", "Frontal", "PA"),
        row(f"{top}/train/patient00013/study1/view1_frontal.jpg", "Male", "90", "Frontal", "PA", Edema="2.0"),
        row(f"{top}/train/patient00014/study1/view1_frontal.jpg", "Male", "50", "Frontal", "PA", Edema="1.0"),
    ]  # fmt: skip
    valid = [
        row(f"{top}/valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP",
            **{name: "0.0" for name in LABELS} | {"Cardiomegaly": "1.0"}),
    ]  # fmt: skip
    write_csv(folder / "train.csv", train)
    write_csv(folder / "valid.csv", valid)
    for line in (*train, *valid):
        if "patient00014" not in line["Path"]:
            picture(folder / line["Path"].removeprefix(f"{top}/"))
    return Replica(
        source={"kind": "chexpert", "path": str(folder)},
        studies=4,
        persons=3,
        faults={"bad_row": 1, "missing_image": 1},
        secrets=("patient00011", "patient00013", "patient00014", "patient64541"),
    )
