"""CheXpert-v1.0 in full size with the radiologists' test set, whose table has a line per study and no persons."""

from pathlib import Path

from tests.contracts.miniature import picture, write_csv
from tests.ingest.archives.replicas.chexpert import LABELS, row
from tests.ingest.archives.replicas.replica import Replica


def build(folder: Path) -> Replica:
    train = [row("CheXpert-v1.0/train/patient00021/study1/view1_frontal.jpg", "Male", "40", "Frontal", "RL")]
    write_csv(folder / "train.csv", train)
    nothing = dict.fromkeys(LABELS, "0.0")
    write_csv(
        folder / "groundtruth.csv",
        [
            {"Study": "CheXpert-v1.0/test/patient64741/study1"} | nothing | {"Lung Opacity": "1.0"},
            {"Study": "CheXpert-v1.0/test/patient64742/study1"} | nothing,
            {"Study": "CheXpert-v1.0/test/patient64743/study1"} | nothing,
        ],
    )
    picture(folder / "train/patient00021/study1/view1_frontal.jpg")
    picture(folder / "test/patient64741/study1/view1_frontal.jpg")
    picture(folder / "test/patient64741/study1/view2_lateral.jpg")
    picture(folder / "test/patient64742/study1/view1_frontal.jpg")
    return Replica(
        source={"kind": "chexpert", "path": str(folder), "tables": ["train", "test"]},
        studies=3,
        persons=3,
        faults={"bad_row": 1},
        secrets=("patient00021", "patient64741", "patient64743"),
    )
