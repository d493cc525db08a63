"""Google's tables: adjudicated four findings with a blank and a hedge, all findings with "Abnormal", a broken cell."""

from pathlib import Path

from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import Certainty, ImageFile, Person, Study
from vlp.reports.findings import LABEL_SETS

FOUR_HEADER = "Image Index,Patient ID,Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
FOUR = (
    "00028417_000.png,28417,NO,NO,YES,NO",
    "00028418_000.png,28418,NO,HEDGE,,YES",
    "00028419_000.png,28419,NO,perhaps,NO,NO",
)
ALL_HEADER = (
    "Image ID,Patient ID,Abnormal,Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,"
    "Consolidation,Edema,Emphysema,Fibrosis,Pleural Thickening,Hernia,Other"
)
ALL = (
    f"00028420_000.png,28420,NO,{','.join(['NO'] * 15)}",
    f"00028418_000.png,28418,YES,{','.join(['NO'] * 5 + ['YES'] + ['NO'] * 9)}",
)
PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN
MINED = {"nodule": ABSENT, "mass": PRESENT, "edema": PRESENT, "no finding": ABSENT}


def study(image: str) -> Study:
    """A study of ChestX-ray14 as its importer gives it."""
    file = ImageFile(id=image, path=None, view="PA", rows=64, columns=64)
    person = Person(id=image.partition("_")[0].lstrip("0"))
    return Study(id=image, person=person, images=(file,), source="nih-chestxray14", labels=MINED)


def build(folder: Path) -> AnnotationReplica:
    (folder / "four_validation_labels.csv").write_text("\n".join((FOUR_HEADER, *FOUR)) + "\n")
    (folder / "all_test_labels.csv").write_text("\n".join((ALL_HEADER, *ALL)) + "\n")
    every = dict.fromkeys(LABEL_SETS["nih14"].values(), ABSENT)
    return AnnotationReplica(
        values={
            "kind": "google_nih",
            "paths": [folder / "four_validation_labels.csv", folder / "all_test_labels.csv"],
        },
        studies=tuple(study(f"000284{number}_000") for number in (17, 18, 19, 20, 21)),
        labels={
            # No nodule or mass: neither, whatever the miner saw.
            "00028417_000": {
                "fracture": ABSENT, "pneumothorax": ABSENT, "lung opacity": PRESENT, "lung lesion": ABSENT,
                "nodule": ABSENT, "mass": ABSENT, "edema": PRESENT, "no finding": ABSENT,
            },
            # The second table has the last word; the first alone knows of fractures.
            "00028418_000": every | {
                "fracture": ABSENT, "lung lesion": PRESENT, "nodule": PRESENT, "no finding": ABSENT,
            },
            "00028420_000": every | {"no finding": PRESENT},
        },
        refused=("00028419_000",),
        secrets=("28417", "28418", "28419", "28420", "perhaps"),
    )  # fmt: skip
