"""A miniature of the RSNA challenge: a row per box, a class per row, DICOM with JPEG inside, unlabelled test images."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ingest.archives.replicas.replica import Replica

IDS = {name: f"{name}6cb01-{number:04}-4c77" for number, name in enumerate("abcdefghi")}
LABELS = (
    # Two boxes, a healthy image, one with something else.
    ("a", "264.0,152.0,213.0,379.0,1", "Lung Opacity"),
    ("a", "562.0,152.0,256.0,453.5,1", "Lung Opacity"),
    ("b", ",,,,0", "Normal"),
    ("c", ",,,,0", "No Lung Opacity / Not Normal"),
    # Faults: both targets, a box outside, class against target, no file, a file cut off, no box.
    ("d", ",,,,0", "Normal"),
    ("d", "1,1,5,5,1", "Normal"),
    ("e", "900,10,300,20,1", "Lung Opacity"),
    ("f", ",,,,0", "Lung Opacity"),
    ("g", ",,,,0", "Normal"),
    ("h", ",,,,0", "Normal"),
    ("i", ",,,,1", "Lung Opacity"),
)


def build(folder: Path) -> Replica:
    labels = (f"{IDS[name]},{cells}" for name, cells, _ in LABELS)
    (folder / "stage_2_train_labels.csv").write_text("\n".join(("patientId,x,y,width,height,Target", *labels)) + "\n")
    classes = (f"{IDS[name]},{said}" for name, _, said in LABELS)
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(("patientId,class", *classes)) + "\n")
    images = folder / "stage_2_train_images"
    for number, name in enumerate(IDS):
        if name != "g":
            write_dicom(images / f"{IDS[name]}.dcm", uid=f"1.2.276.{number}", patient=IDS[name], seed=number)
    damaged = images / f"{IDS['h']}.dcm"
    damaged.write_bytes(damaged.read_bytes()[:-400])
    write_dicom(folder / "stage_2_test_images" / "x6cb01.dcm", uid="1.2.276.99", patient="x6cb01", seed=99)
    return Replica(
        source={"kind": "rsna", "path": folder},
        studies=3,
        persons=3,
        faults={"bad_row": 3, "bad_box": 1, "missing_image": 1, "truncated_pixel_data": 1},
        secrets=tuple(IDS.values()),
    )


def write_dicom(path: Path, *, uid: str, patient: str, seed: int, side_px: int = 64) -> None:
    """An 8-bit radiograph with baseline JPEG inside, as both Kaggle challenges hold them."""
    pydicom = pytest.importorskip("pydicom", reason="DICOM needs pydicom: pip install 'vlp[dicom]'")
    from pydicom.encaps import encapsulate

    header = pydicom.Dataset()
    header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    header.SOPInstanceUID, header.StudyInstanceUID, header.SeriesInstanceUID = uid, f"{uid}.1", f"{uid}.2"
    header.PatientID, header.PatientSex = patient, "F"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.PatientAge = "58"  # no unit, which is not DICOM; the challenges have it so
    header.Modality, header.BodyPartExamined, header.ViewPosition = "CR", "CHEST", "PA"
    header.PhotometricInterpretation, header.SamplesPerPixel = "MONOCHROME2", 1
    header.Rows, header.Columns = side_px, side_px
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 8, 8, 7, 0
    header.PixelSpacing = ["0.139", "0.139"]
    header.LossyImageCompression = "01"
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    pixels = np.kron(coarse, np.ones((side_px // 8, side_px // 8), dtype=np.uint8))
    frame = io.BytesIO()
    Image.fromarray(pixels).save(frame, format="JPEG", quality=90)
    header.PixelData = encapsulate([frame.getvalue()])
    header["PixelData"].VR = "OB"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = header.SOPClassUID, uid
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header.save_as(path, enforce_file_format=True)
