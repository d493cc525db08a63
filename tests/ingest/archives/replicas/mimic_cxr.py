"""MIMIC-CXR-JPG: gzipped tables, blank views, times without leading zeros, wet reads, addenda, removed words, a study
without a report, one without an image, one without a split, one labelled by radiologists."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.contracts.miniature import picture, write_csv
from tests.ingest.archives.replicas.replica import Replica

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
FINAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___ year old woman with zebrawood cough  // eval for pneumonia
 
 COMPARISON:  ___
 
 FINDINGS: 
 
 There is a small left pleural effusion.  No pneumothorax.
 
 IMPRESSION: 
 
 Small left pleural effusion.
"""  # noqa: W291, W293
WET_READ = """ WET READ: ___ ___ ___ 9:14 PM
  Mild edema.
 WET READ VERSION #1
 ______________________________________________________________________________
                                 FINAL REPORT
 CHEST RADIOGRAPH
 
 There is mild pulmonary edema.  The heart is enlarged.
 
 ADDENDUM:  The endotracheal tube is in quillwork position.
"""  # noqa: W293
# subject, study, image (names are shortened), view, code, date, time, split
IMAGES = (
    ("10000032", "50414267", "02aa804e-bde0afdd-4e384014", "PA", "postero-anterior", "21800506", "213014.531", "train"),
    ("10000032", "50414267", "174413ec-4ec4c1f7-79ef1962", "LATERAL", "lateral", "21800506", "213014.531", "train"),
    ("10000032", "53189527", "2a2277a9-b0ded155-82c5caab", "", "antero-posterior", "21800626", "165500.312", "train"),
    ("10000032", "53911762", "68b5c4b1-227d0485-4b472714", "AP", "antero-posterior", "21800626", "80556.875", "train"),
    ("10000764", "57375967", "096052b7-d256dc40-1b22c6b4", "", "", "21321015", "83620.062", "validate"),
    ("11000011", "51029426", "0a9e4a5d-0ec3f2b5-0a0d6b4e", "LL", "lateral", "21470808", "101500.0", "test"),
    ("11000011", "51029427", "1b9e4a5d-0ec3f2b5-0a0d6b4f", "AP", "", "21470809", "101500.0", "test"),
    ("11000012", "51029428", "2c9e4a5d-0ec3f2b5-0a0d6b50", "AP", "", "21470809", "101500.0", ""),
)  # fmt: skip
MISSING = "51029427"
REPORTS = {"50414267": FINAL, "53189527": WET_READ, "53911762": " \n", "51029426": "No acute disease in ___.\n"}


def report_name(subject: str, study: str) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}.txt"


def labels(study: str, **said: str) -> dict[str, Any]:
    named = {name.replace("_", " "): value for name, value in said.items()}
    return {"study_id": study} | {name: named.get(name, "") for name in LABELS}


def write_tables(folder: Path, chexpert: Mapping[str, Mapping[str, str]]) -> None:
    prefix = folder / "mimic-cxr-2.0.0"
    metadata = [
        {
            "dicom_id": image, "subject_id": subject, "study_id": study,
            "PerformedProcedureStepDescription": "CHEST (PA AND LAT)", "ViewPosition": view, "Rows": 40, "Columns": 50,
            "StudyDate": date, "StudyTime": time, "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
            "ViewCodeSequence_CodeMeaning": code, "PatientOrientationCodeSequence_CodeMeaning": "Erect",
        }
        for subject, study, image, view, code, date, time, _ in IMAGES
    ]  # fmt: skip
    split = [
        {"dicom_id": image, "study_id": study, "subject_id": subject, "split": part}
        for subject, study, image, *_, part in IMAGES
        if part
    ]
    subjects = {study: subject for subject, study, *_ in IMAGES}
    rows = [{"subject_id": subjects[study]} | labels(study, **said) for study, said in chexpert.items()]
    write_csv(prefix.with_name(f"{prefix.name}-metadata.csv.gz"), metadata)
    write_csv(prefix.with_name(f"{prefix.name}-split.csv.gz"), split)
    write_csv(prefix.with_name(f"{prefix.name}-chexpert.csv.gz"), rows)
    write_csv(prefix.with_name(f"{prefix.name}-negbio.csv.gz"), rows[:1])
    write_csv(
        folder / "mimic-cxr-2.1.0-test-set-labeled.csv",
        [
            {"study_id": "51029426"}
            | {("Airspace Opacity" if name == "Lung Opacity" else name): "0.0" for name in LABELS if name != "Edema"}
            | {"Airspace Opacity": "1.0", "Fracture": ""}
        ],
    )


def build(folder: Path) -> Replica:
    write_tables(
        folder,
        {
            "50414267": {"Pleural_Effusion": "1.0", "Pneumothorax": "0.0", "Pneumonia": "-1.0"},
            "53189527": {"Edema": "1.0"},
            "57375967": {"No_Finding": "1.0"},
            "51029426": {"Edema": "-1.0"},
        },
    )
    for subject, study, image, *_ in IMAGES:
        report = folder / report_name(subject, study)
        if study != MISSING:
            picture(report.with_suffix("") / f"{image}.jpg")
        if study in REPORTS:
            report.write_text(REPORTS[study], encoding="utf-8")
    return Replica(
        source={"kind": "mimic_cxr", "path": str(folder)},
        studies=5,
        persons=3,
        faults={"missing_image": 1, "bad_row": 1},
        secrets=("10000032", "11000012", "50414267", MISSING, IMAGES[-1][2], "zebrawood", "quillwork"),
    )
