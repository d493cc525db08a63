"""A miniature of the SIIM challenge: a blank before a column's name, relative run lengths, DICOM in nested folders."""

from pathlib import Path

from tests.ingest.archives.replicas.replica import Replica
from tests.ingest.archives.replicas.rsna import write_dicom

PREFIX = "1.2.276.0.7230010.3.1.4.8323329."
ROWS = (
    # None; two outlines, one of them to the last pixel; one from the first pixel on; the same outline twice.
    ("6904.1517875201.850819", " -1"),
    ("13666.1517875247.117800", " 557374 2 1015 8 1009 14"),
    ("13666.1517875247.117800", " 1048570 6"),
    ("11557.1517875237.994921", " 0 3 1021 3"),
    ("32219.1517875159.70802", "-1"),
    ("10005.1517875220.94347", "10 5"),
    ("10005.1517875220.94347", "10 5"),
    # A smaller copy, where 16 x 16 pixels become one.
    ("10006.1517875220.94347", " ".join(["16400 16", *["1008 16"] * 15])),
    # Faults: outside, an odd number of numbers, none and one, no file, an outline that a smaller copy loses.
    ("20001.1517875220.94347", "1048570 7"),
    ("20002.1517875220.94347", "1 2 3"),
    ("20003.1517875220.94347", "-1"),
    ("20003.1517875220.94347", "1 2"),
    ("20004.1517875220.94347", "-1"),
    ("20005.1517875220.94347", "1 2"),
)
ABSENT, SMALL = "20004.1517875220.94347", ("10006.1517875220.94347", "20005.1517875220.94347")
SAME_PERSON = ("6904.1517875201.850819", "32219.1517875159.70802")


def build(folder: Path) -> Replica:
    lines = (f"{PREFIX}{name},{cell}" for name, cell in ROWS)
    (folder / "train-rle.csv").write_text("\n".join(("ImageId, EncodedPixels", *lines)) + "\n")
    for number, name in enumerate(dict.fromkeys(name for name, _ in ROWS)):
        if name == ABSENT:
            continue
        uid = f"{PREFIX}{name}"
        patient = "17ad3bd8" if name in SAME_PERSON else f"9f6af2d0-{number}"
        path = folder / "dicom-images-train" / f"{uid}.1" / f"{uid}.2" / f"{uid}.dcm"
        write_dicom(path, uid=uid, patient=patient, seed=number, side_px=64 if name in SMALL else 1024)
    return Replica(
        source={"kind": "siim", "path": folder},
        studies=6,
        persons=5,
        faults={"bad_box": 2, "bad_row": 2, "missing_image": 1},
        secrets=("1517875201", "1517875220", "17ad3bd8", "9f6af2d0"),
    )
