"""DRR-RATE beside the tables of CT-RATE: scans with several reconstructions, reports of the CT, two parts."""

from pathlib import Path

from tests.contracts.miniature import write_csv
from tests.ingest.archives.replicas.replica import Replica
from tests.ingest.archives.replicas.table import picture
from vlp.ingest.archives.synthetic import LABELS

REPORT = {
    "ClinicalInformation_EN": "Cough.",
    "Technique_EN": "Axial sections were obtained with 1.5 mm collimation.",
    "Findings_EN": "There is left pleural effusion. Wandering azygos vein. Pericardial effusion is present.",
    "Impressions_EN": "Cardiomegaly.",
}
UNSEEN = {"Findings_EN": "Thyroid gland was not examined.", "Impressions_EN": ""}


def labels(name: str, *present: str, **other: str) -> dict[str, str]:
    return {"ImageName": name, **{label: str(int(label in present)) for label in LABELS}, **other}


def build(folder: Path) -> Replica:
    for name in ("multi_abnormality_labels", "ct_rate/radiology_text_reports", "ct_rate/metadata"):
        (folder / name).mkdir(parents=True)
    write_csv(
        folder / "multi_abnormality_labels/train_predicted_labels.csv",
        [
            labels("train_41_a_1.png", "Pleural effusion", "Pericardial effusion", "Lung nodule", "Bronchiectasis"),
            labels("train_41_a_2.png", "Pleural effusion", "Pericardial effusion", "Lung nodule", "Bronchiectasis"),
            labels("train_41_b_1.png"),
            labels("train_42_a_1.png", Emphysema="yes"),
            labels("train_43_a_1.png"),
            labels("scout_view.png"),
        ],
    )
    write_csv(
        folder / "multi_abnormality_labels/valid_predicted_labels.csv",
        [{"VolumeName": "valid_51_a_1.nii.gz", **{label: "0.0" for label in LABELS}}],
    )
    write_csv(
        folder / "ct_rate/radiology_text_reports/train_reports.csv",
        [
            {"VolumeName": "train_41_a_1.nii.gz", **REPORT},
            {"VolumeName": "train_41_a_2.nii.gz", **REPORT},
            {"VolumeName": "train_41_b_1.nii.gz", **REPORT, **UNSEEN, "ClinicalInformation_EN": ""},
        ],
    )
    write_csv(
        folder / "ct_rate/metadata/validation_metadata.csv",
        [{"VolumeName": "valid_51_a_1.nii.gz", "PatientSex": "F", "PatientAge": "061Y", "Manufacturer": "SIEMENS"}],
    )
    for seed, name in enumerate(("train_41_a_1", "train_41_a_2", "train_41_b_1", "train_42_a_1", "valid_51_a_1")):
        part, number, scan, _ = name.split("_")
        place = folder / part / "AP" / f"{part}_{number}" / f"{part}_{number}_{scan}"
        picture(place / f"{name}.png", rows=64, columns=64, seed=seed)
    return Replica(
        source={
            "kind": "synthetic",
            "archive": {"layout": "drr_rate", "path": str(folder), "ct_rate": str(folder / "ct_rate")},
        },
        studies=3,
        persons=2,
        faults={"bad_row": 2, "missing_image": 1},
        secrets=("train_41_a", "train_43_a", "valid_51", "Wandering", "Thyroid", "scout_view"),
    )
