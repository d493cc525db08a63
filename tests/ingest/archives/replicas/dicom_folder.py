"""The export of a PACS: patients' studies with their reports, in folders that mean nothing, among other things."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.ingest.archives.replicas.replica import Replica

SECRETS = ("MRN-40711", "MRN-40712", "MRN-40713", "Doe^Jane", "zebrawood")


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4096, (40, 50), dtype=np.uint16)


def build(folder: Path) -> Replica:
    writing = pytest.importorskip("tests.ingest.dicom_writing", reason="needs the extra vlp[dicom]")
    header, uid, write = writing.header, writing.uid, writing.write
    jane = {"PatientID": "MRN-40711", "PatientName": "Doe^Jane", "PatientSex": "F", "PatientAge": "061Y"}
    first, second, third, mixed, ct = (f"1.2.826.0.1.{number}" for number in range(5))
    one = header(
        _pixels(1), **jane, StudyInstanceUID=first, StudyDate="20200105", ViewPosition="PA", AccessionNumber="a1"
    )
    write(folder / "DICOM/PA000/ST000/IM000", one)
    shutil.copy(folder / "DICOM/PA000/ST000/IM000", folder / "DICOM/copy.dcm")
    write(
        folder / "DICOM/PA000/ST000/IM001",
        header(_pixels(2), **jane, StudyInstanceUID=first, StudyDate="20200105", ViewPosition="LL"),
        uid.ImplicitVRLittleEndian,
        preamble=False,
    )
    write(folder / "DICOM/PA000/ST000/SR000", _report(writing, StudyInstanceUID=first, PatientID="MRN-40711"))
    write(
        folder / "DICOM/later.dcm",
        header(_pixels(3), **jane, StudyInstanceUID=second, StudyDate="20210105", PatientOrientation=["L", "F"]),
        uid.ExplicitVRBigEndian,
    )
    other = {"PatientID": "MRN-40712", "PatientAge": "004Y"}
    write(
        folder / "x/1.dcm", header(_pixels(4), **other, StudyInstanceUID=third, SOPClassUID=writing.CR, Modality="CR")
    )
    write(folder / "x/2.dcm", header(_pixels(5), StudyInstanceUID=mixed, PatientID="MRN-40712"))
    write(folder / "x/3.dcm", header(_pixels(6), StudyInstanceUID=mixed, PatientID="MRN-40713"))
    write(folder / "x/4.dcm", header(_pixels(7), StudyInstanceUID=ct, SOPClassUID=uid.CTImageStorage, Modality="CT"))
    write(folder / "x/5.dcm", header(_pixels(8), SOPInstanceUID=one.SOPInstanceUID, StudyInstanceUID=third, **other))
    (folder / "x/6.dcm").touch()
    (folder / "x/README.txt").write_text("Doe^Jane")
    return Replica(
        source={"kind": "dicom_folder", "path": str(folder), "min_side_px": 16, "unlike_chest": "keep"},
        studies=3,
        persons=2,
        faults={"mixed_patients": 1, "excluded_wrong_modality": 1, "uid_conflict": 1, "empty_file": 1},
        secrets=SECRETS,
    )


def _report(writing, **elements):
    report = writing.Dataset()
    report.SOPClassUID, report.SOPInstanceUID = writing.uid.BasicTextSRStorage, writing.uid.generate_uid()
    report.Modality, report.ValueType = "SR", "CONTAINER"
    report.ContentSequence = writing.items(
        {
            "RelationshipType": "CONTAINS",
            "ValueType": "TEXT",
            "ConceptNameCodeSequence": writing.code("59776-5", "Findings"),
            "TextValue": "Small left pleural effusion, zebrawood.",
        }
    )
    for keyword, value in elements.items():
        setattr(report, keyword, value)
    return report
