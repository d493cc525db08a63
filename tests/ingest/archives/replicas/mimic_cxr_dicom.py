"""MIMIC-CXR as PhysioNet gives it: DICOM files, a list of them, and all reports in one ZIP archive."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.contracts.miniature import write_csv
from tests.ingest.archives.replicas.mimic_cxr import FINAL, IMAGES, report_name
from tests.ingest.archives.replicas.replica import Replica


def write_dicom(path: Path, *, view: str) -> None:
    """A small digital radiograph of a chest, 12 bits, without anything that says whose it is."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra vlp[dicom]")
    pixels = np.random.default_rng(len(str(view))).integers(0, 4096, (40, 50), dtype=np.uint16)
    header = pydicom.Dataset()
    header.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    header.SOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    header.Modality, header.BodyPartExamined, header.ViewPosition = "DX", "CHEST", view
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.PixelData = pixels.tobytes()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    header.save_as(path, enforce_file_format=True)


def build(folder: Path) -> Replica:
    images = IMAGES[:4]
    write_csv(
        folder / "cxr-record-list.csv.gz",
        [
            {
                "subject_id": subject, "study_id": study, "dicom_id": image,
                "path": f"files/p{subject[:2]}/p{subject}/s{study}/{image}.dcm",
            }
            for subject, study, image, *_ in images
        ],
    )  # fmt: skip
    for subject, study, image, view, *_ in images:
        write_dicom(folder / f"files/p{subject[:2]}/p{subject}/s{study}/{image}.dcm", view=view)
    with zipfile.ZipFile(folder / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(report_name("10000032", "50414267"), FINAL)
    return Replica(
        source={
            "kind": "mimic_cxr",
            "path": str(folder),
            "images": "dicom",
            "reports": str(folder / "mimic-cxr-reports.zip"),
            "labels": None,
            "official_splits": False,
        },
        studies=3,
        persons=1,
        secrets=("10000032", "50414267", images[0][2], "zebrawood"),
    )
