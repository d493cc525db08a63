"""A hospital's own export: two tables with the quirks of spreadsheets, and a folder of pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.ingest.archives.replicas.replica import Replica

HEADER = "Accession,MRN,File,Modality,Projection,Fold,Age,Gender,Exam Date,Report Text,PTX,Pleural fluid,Other,Scanner"
LINES = (
    # one study of two pictures; the report holds a line break, a comma and quotes
    'A2,MRN-0071,a2/front.png,CR,PA,train,063Y,Female,2019-05-02,"Small left effusion, new.\n""Zebrafish""",1,-1,,X1',
    "A2,MRN-0071,a2/side.png,CR,LATERAL,train,063Y,Female,2019-05-02,,,,,X1",
    "A1,MRN-0071,a1/front.png,CR,pa,train,62,F,2018-11-30,Clear lungs.,0,0,,X1",
    "B1,MRN-0082,b1.png,DX,AP SUPINE,test,0.5,male,2019-01-01,,maybe,no,Mass|Goitre,",
    "B2,MRN-0082,b2.png,DX,SWIMMER,test,1,male,2019-02-01,,,,Goitre,",
    "C1,MRN-0093,Okonkwo-missing.png,DX,PA,val,,,,,1,,,X2",
    "D1,MRN-0104,d1.png,DX,PA,val,,,,,7,,,X2",
    "E1,MRN-0115,e1.png,DX,PA,val,200,U,,,,,,X2",
    "F1,MRN-0126,f1.png,CT,PA,train,,,,,1,,,X2",
    "G1,MRN-0137,g1.png,DX,PA,train,,,,,1,,,X2",
    ",MRN-0148,g1.png,DX,PA,train,,,,,1,,,X2",
)
BOXES = (
    "Picture,What,Left,Top,Width,Height",
    "a2/front.png,Effusion,0.5,0.25,0.25,0.5",
    "b1.png,Goitre,0,0,1,0.1",
    "b2.png,,,,,",
    "g1.png,Mass,0.9,0.9,0.5,0.5",
    "z9.png,Mass,0.1,0.1,0.5,0.5",
)


def picture(path: Path, *, rows: int = 40, columns: int = 48, seed: int = 0, bits: int = 8) -> np.ndarray:
    """Writes a picture of noise and returns its values as stored."""
    values = np.random.default_rng(seed).integers(0, 2**bits, (rows, columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = values.astype(np.uint16 if bits > 8 else np.uint8)
    Image.fromarray(stored).save(path, format="PNG")
    return stored


def build(folder: Path) -> Replica:
    (folder / "export.csv").write_bytes("\r\n".join([HEADER, *LINES, ""]).encode("utf-8-sig"))
    (folder / "boxes.csv").write_text("\n".join([*BOXES, ""]))
    names = ("a2/front.png", "a2/side.png", "a1/front.png", "b1.png", "b2.png", "d1.png", "f1.png", "g1.png")
    for seed, name in enumerate(names):
        picture(folder / "pictures" / name, seed=seed)
    (folder / "pictures/e1.png").write_bytes(b"")
    return Replica(
        source={
            "kind": "table",
            "table": str(folder / "export.csv"),
            "images": str(folder / "pictures"),
            "columns": {
                "image": "File",
                "patient": "MRN",
                "study": "Accession",
                "report": "Report Text",
                "view": "Projection",
                "split": "Fold",
                "age": "Age",
                "sex": "Gender",
                "order": "Exam Date",
                "groups": {"scanner": "Scanner"},
            },
            "labels": {
                "columns": {"PTX": "pneumothorax", "Pleural fluid": "Effusion"},
                "values": {"Maybe": "uncertain"},
                "names": "Other",
            },
            "boxes": {
                "table": str(folder / "boxes.csv"),
                "image": "Picture",
                "edges": ["Left", "Top", "Width", "Height"],
                "form": "size",
                "unit": "fractions",
                "finding": "What",
            },
            "only": {"Modality": ["CR", "DX"]},
            "license": "internal",
            "title": "export",
        },
        studies=4,
        persons=2,
        faults={"missing_image": 1, "bad_row": 2, "empty_file": 1, "bad_box": 1},
        secrets=("MRN-0071", "MRN-0082", "MRN-0093", "MRN-0104", "Okonkwo", "Zebrafish", "Clear lungs"),
    )
