"""PadChest: numbered folders of 16-bit PNG, one table with lists in quotes, and the release's empty images."""

import csv
from pathlib import Path

from tests.ingest.archives.replicas.replica import Replica
from tests.ingest.archives.replicas.table import picture
from vlp.ingest.archives.padchest import TABLE

COLUMNS = (
    "", "ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
    "ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM", "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM", "BitsStored_DICOM", "ReportID", "Report", "MethodLabel", "Labels",
    "Localizations",
)  # fmt: skip
P1, P2, P3, P4 = (f"8396{number}1207{number}557733" for number in range(4))


def line(image: str, patient: str, study: str, **facts: str) -> dict[str, str]:
    """A line of the table; what is not given is as in most lines."""
    usual = {
        "ImageID": f"{image}.png", "ImageDir": "0", "StudyDate_DICOM": "20140915", "StudyID": study,
        "PatientID": patient, "PatientBirth": "1930.0", "PatientSex_DICOM": "F",
        "ViewPosition_DICOM": "POSTEROANTERIOR", "Projection": "PA", "Pediatric": "No",
        "MethodProjection": "Manual review of DICOM fields",
        "Modality_DICOM": "CR", "Manufacturer_DICOM": "ImagingDynamicsCompanyLtd",
        "PhotometricInterpretation_DICOM": "MONOCHROME2", "BitsStored_DICOM": "12", "ReportID": "4765777",
        "Report": "sin hallazg patolog", "MethodLabel": "Physician", "Labels": "['normal']", "Localizations": "[]",
    }  # fmt: skip
    return dict.fromkeys(COLUMNS, "") | usual | facts


LINES = (
    line(
        "7140_front", P1, "90011", Report="derram pleural izquierd . marcapas .", StudyDate_DICOM="20150622",
        Labels="['pleural effusion', ' COPD signs', 'pacemaker', 'laminar atelectasis', '']",
        Localizations="['loc  pleural', 'loc  left']",
    ),
    line(
        "7140_side", P1, "90011", Report="derram pleural izquierd . marcapas .", StudyDate_DICOM="20150622",
        Labels="['pleural effusion', ' COPD signs', 'pacemaker', 'laminar atelectasis', '']", Projection="L",
        ImageDir="1",
    ),
    line("7141", P1, "90012", PhotometricInterpretation_DICOM="MONOCHROME1", StudyDate_DICOM="20140101"),
    line("7142", P1, "90013", Projection="COSTAL"),
    line("7143", P2, "90014", Projection="AP_horizontal", Labels="", MethodLabel="RNN_model", PatientBirth="None"),
    line("7144", P2, "90015", Labels="['exclude']"),
    line("7145", P2, "90016", Labels="['subcutaneous emphysema', \"breast mass\", 'hydropneumothorax']", Report=""),
    line("7146_empty", P3, "90017", ImageDir="2"),
    line("7147_gone", P3, "90018"),
    line("7148", P3, "90019", Labels="__import__('os').system('true')"),
    line("7149", P3, "", Labels="['normal']"),
    line("7150_no_folder", P4, "90021", ImageDir="50", Labels="['unchanged']", PatientSex_DICOM="O"),
    line("7151", P4, "90022", Projection="EXCLUDE"),
)  # fmt: skip


def build(folder: Path) -> Replica:
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(LINES)
    images = folder / "images"
    for seed, name in enumerate(
        ("0/7140_front", "1/7140_side", "0/7141", "0/7143", "0/7145", "0/7148", "7150_no_folder")
    ):
        picture(images / f"{name}.png", seed=seed, bits=16)
    (images / "2").mkdir()
    (images / "2/7146_empty.png").write_bytes(b"")
    return Replica(
        source={"kind": "padchest", "path": str(folder), "images": str(images)},
        studies=5,
        persons=3,
        faults={"empty_file": 1, "missing_image": 1, "bad_row": 2},
        secrets=(P1, P2, P3, "90011", "7140_front", "7146_empty", "7147_gone", "derram", "hallazg"),
    )
