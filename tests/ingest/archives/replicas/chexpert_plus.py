"""CheXpert Plus: reports over many lines, names in .jpg for files in .png, null labels, unknown persons, two visits."""

import json
from pathlib import Path
from typing import Any

from tests.contracts.miniature import picture, write_csv
from tests.ingest.archives.replicas.chexpert import LABELS
from tests.ingest.archives.replicas.replica import Replica

REPORT = """NARRATIVE:
XRAY CHEST, 1 VIEW: 4/3/2007

CLINICAL HISTORY: 61 years of age, Female, "zebrawood" cough, rule out pneumonia.

COMPARISON: None.

FINDINGS: There is a small left pleural effusion,
without pneumothorax.

IMPRESSION:

1.  SMALL LEFT PLEURAL EFFUSION.
END OF IMPRESSION:

ACCESSION NUMBER:
4711
"""


def row(image: str, **said: Any) -> dict[str, Any]:
    patient = image.split("/")[1]
    return {
        "path_to_image": image,
        "path_to_dcm": image.replace(".jpg", ".dcm"),
        "frontal_lateral": "Lateral" if "lateral" in image else "Frontal",
        "ap_pa": "AP",
        "deid_patient_id": patient,
        "patient_report_date_order": 1,
        "report": REPORT,
        "section_narrative": "XRAY CHEST, 1 VIEW: 4/3/2007",
        "section_clinical_history": '61 years of age, Female, "zebrawood" cough, rule out pneumonia.',
        "section_history": "",
        "section_comparison": "None.",
        "section_technique": "",
        "section_procedure_comments": "",
        "section_findings": "There is a small left pleural effusion,\nwithout pneumothorax.",
        "section_impression": "1.  SMALL LEFT PLEURAL EFFUSION.",
        "section_end_of_impression": "",
        "section_summary": "",
        "section_accession_number": "4711",
        "age": 61,
        "sex": "Female",
        "race": "White, non-Hispanic",
        "ethnicity": "Non-Hispanic/Non-Latino",
        "interpreter_needed": "No",
        "insurance_type": "Medicare",
        "recent_bmi": "",
        "deceased": "No",
    } | said


def labels(image: str, **said: float | None) -> str:
    return json.dumps({"path_to_image": image} | dict.fromkeys(LABELS) | said)


def build(folder: Path) -> Replica:
    first = "train/patient42142/study5/view1_frontal.jpg"
    lateral = "train/patient42142/study5/view2_lateral.jpg"
    earlier = "train/patient42142/study2/view1_frontal.jpg"
    unknown = "valid/patient64551/study1/view1_frontal.jpg"
    gone = "train/patient42143/study1/view1_frontal.jpg"
    other = "train/patient42144/study1/view1_frontal.jpg"
    write_csv(
        folder / "df_chexpert_plus_240401.csv",
        [
            row(first, patient_report_date_order=2),
            row(lateral, patient_report_date_order=2),
            row(earlier, report="", section_findings="", section_impression="", section_clinical_history=""),
            row(unknown, sex="Unknown", age=0, race="Unknown", ethnicity="", insurance_type="", ap_pa=""),
            row(gone),
            row(other, deid_patient_id="patient42199"),
        ],
    )
    lines = {
        "report": [
            labels(first, **{"Pleural Effusion": 1.0, "Pneumothorax": 0.0}),
            labels(lateral, **{"Pleural Effusion": 1.0, "Pneumothorax": 0.0}),
            labels(earlier),
        ],
        "impression": [labels(first, **{"Pleural Effusion": 1.0}), labels(lateral, **{"Pleural Effusion": 1.0})],
        "findings": [labels(first, Pneumonia=-1.0), labels(lateral, Pneumonia=-1.0)],
    }
    (folder / "chexbert_labels").mkdir()
    for name, text in lines.items():
        (folder / f"chexbert_labels/{name}_fixed.json").write_text("\n".join(text) + "\n")
    for image in (first, lateral, earlier, unknown, other):
        picture((folder / "PNG" / image).with_suffix(".png"))
    return Replica(
        source={"kind": "chexpert_plus", "path": str(folder)},
        studies=3,
        persons=2,
        faults={"missing_image": 1, "bad_row": 1},
        secrets=("patient42142", "patient42143", "patient42144", "patient42199", "zebrawood", "4711"),
    )
