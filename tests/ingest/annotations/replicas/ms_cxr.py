"""MS-CXR 1.1.0: several boxes of one phrase, a smaller copy of an image, persons in MIMIC-CXR's train split, a box
that lies outside its image."""

from pathlib import Path
from typing import Any

from tests.contracts.miniature import write_csv
from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import ImageFile, Person, Region, Report, Study

FIRST, SECOND, OUTSIDE, OTHER = "02aa804e-bde0afdd", "174413ec-4ec4c1f7", "2a2277a9-b0ded155", "68b5c4b1-227d0485"


def study(id_: str, person: str, *images: ImageFile, text: str | None = None) -> Study:
    """A study of MIMIC-CXR as its importer gives it."""
    report = Report(text=text) if text else None
    return Study(
        id=id_, person=Person(id=person), images=images, report=report, source="mimic-cxr", license="x", split="train"
    )


def image(id_: str, *, rows: int = 3056, columns: int = 2544) -> ImageFile:
    return ImageFile(id=id_, path=None, view="AP", rows=rows, columns=columns)


def row(image_id: str, person: str, category: str, *box: int) -> dict[str, Any]:
    return {
        "category_name": category,
        "label_text": "Left zebrawood opacity, unchanged",
        "path": f"files/p{person[:2]}/p{person}/s50414267/{image_id}.jpg",
        **dict(zip("xywh", box, strict=True)),
        "image_width": 2544,
        "image_height": 3056,
        "dicom_id": image_id,
        "split": "val",
    }


def build(folder: Path) -> AnnotationReplica:
    write_csv(
        folder / "MS_CXR_Local_Alignment_v1.1.0.csv",
        [
            row(FIRST, "10000032", "Pleural Effusion", 100, 200, 300, 400),
            row(FIRST, "10000032", "Pleural Effusion", 1500, 200, 301, 400),
            row(SECOND, "10000764", "Lung Opacity", 0, 0, 2544, 3056),
            row(OUTSIDE, "11000011", "Pneumonia", 2500, 0, 100, 100),
        ],
    )
    return AnnotationReplica(
        values={"kind": "ms_cxr", "path": str(folder)},
        studies=(
            study("50414267", "10000032", image(FIRST)),
            study("50414268", "10000032", image("another")),
            study("57375967", "10000764", image(SECOND, rows=1528, columns=1272)),
            study("51029426", "11000011", image(OUTSIDE)),
            study("51029427", "11000012", image(OTHER)),
        ),
        regions={
            "50414267": (
                Region(finding="pleural effusion", image=FIRST, geometry=(100.0, 200.0, 400.0, 600.0)),
                Region(finding="pleural effusion", image=FIRST, geometry=(1500.0, 200.0, 1801.0, 600.0)),
            ),
            "57375967": (Region(finding="lung opacity", image=SECOND, geometry=(0.0, 0.0, 1272.0, 1528.0)),),
        },
        refused=("51029426",),
        secrets=("10000032", "11000011", OUTSIDE, "zebrawood"),
    )
