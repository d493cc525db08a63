"""VinDr-CXR as PhysioNet gives it: JPEG 2000 of 12 bits, both polarities, three readers who do not always agree."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.ingest.archives.replicas.replica import Replica

NAMES = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding",
)  # fmt: skip
AGREED, DIVIDED, NORMAL, OUTSIDE, GONE, BLANK, TESTED = (f"{digit}" * 32 for digit in "abcdef0")
ROWS, COLUMNS = 80, 64
MARKS = {
    "train": (
        f"{AGREED},R9,Pleural effusion,10,40,30,70",
        f"{AGREED},R10,Pleural effusion,12,42,32,72",
        f"{AGREED},R8,Nodule/Mass,40,10,50,20",
        f"{DIVIDED},R1,Cardiomegaly,5.5,5.5,60.5,60.5",
        f"{DIVIDED},R2,No finding,,,,",
        f"{DIVIDED},R3,ILD,0,0,30,30",
        *(f"{NORMAL},R{reader},No finding,,,," for reader in (1, 2, 3)),
        *(f"{OUTSIDE},R{reader},Atelectasis,0,0,{COLUMNS + 40},20" for reader in (1, 2, 3)),
    ),
    "test": (f"{TESTED},Pneumothorax,1,2,33,44",),
}
LABELS = {
    "train": {
        (AGREED, "R8"): {"Nodule/Mass", "Pneumonia"},
        (AGREED, "R9"): {"Pleural effusion", "Lung tumor"},
        (AGREED, "R10"): {"Pleural effusion"},
        (DIVIDED, "R1"): {"Cardiomegaly"},
        (DIVIDED, "R2"): {"No finding"},
        (DIVIDED, "R3"): {"ILD"},
        **{(NORMAL, f"R{reader}"): {"No finding"} for reader in (1, 2, 3)},
        **{(OUTSIDE, f"R{reader}"): {"Atelectasis"} for reader in (1, 2, 3)},
        (GONE, "R1"): {"No finding"},
        (BLANK, "R1"): None,
    },
    "test": {(TESTED, ""): {"Pneumothorax", "Rib fracture"}},
}  # fmt: skip


def dicom(path: Path, *, seed: int, photometric: str = "MONOCHROME2", compressed: bool = True) -> np.ndarray:
    """Writes a radiograph of 12 bits and returns its values as stored."""
    pydicom = pytest.importorskip("pydicom", reason="needs the extra vlp[dicom]")
    stored = np.random.default_rng(seed).integers(0, 4096, (ROWS, COLUMNS)).astype(np.uint16)
    stored[0, :2] = 0, 4095
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless if compressed else pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[path.name])
    image = pydicom.Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.Modality, image.BodyPartExamined = "DX", "CHEST"
    image.PatientSex, image.PatientAge = "F", "043Y"
    image.Rows, image.Columns, image.SamplesPerPixel = ROWS, COLUMNS, 1
    image.PhotometricInterpretation, image.PixelRepresentation = photometric, 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    if compressed:
        file = cv2.imencode(".jp2", stored)[1].tobytes()
        image.PixelData = pydicom.encaps.encapsulate([file[file.index(b"\xff\x4f\xff\x51") :]])
        image["PixelData"].VR = "OB"
    else:
        image.PixelData = stored.tobytes()
        image["PixelData"].VR = "OW"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return stored


def build(folder: Path) -> Replica:
    (folder / "annotations").mkdir()
    for part, reader in (("train", "rad_id,"), ("test", "")):
        header = f"image_id,{reader}class_name,x_min,y_min,x_max,y_max"
        (folder / f"annotations/annotations_{part}.csv").write_text("\n".join([header, *MARKS[part], ""]))
        lines = [f"image_id,{reader}{','.join(NAMES)}"]
        for (image, rad_id), found in LABELS[part].items():
            cells = ["?" if found is None else str(int(name in found)) for name in NAMES]
            lines.append(",".join([image, *([rad_id] if rad_id else []), *cells]))
        (folder / f"annotations/image_labels_{part}.csv").write_text("\n".join([*lines, ""]))
    for seed, image in enumerate((AGREED, DIVIDED, NORMAL, OUTSIDE, BLANK)):
        photometric = "MONOCHROME1" if image == DIVIDED else "MONOCHROME2"
        dicom(folder / f"train/{image}.dicom", seed=seed, photometric=photometric, compressed=seed % 2 == 0)
    dicom(folder / f"test/{TESTED}.dicom", seed=9)
    return Replica(
        source={"kind": "vindr", "path": str(folder)},
        studies=4,
        persons=4,
        faults={"bad_box": 1, "missing_image": 1, "bad_row": 1},
        secrets=(AGREED, OUTSIDE, GONE, BLANK, TESTED),
    )
