"""CheXlocalize: polygons on original pixels, CheXpert-small's copy of one image, a stray click, a bad outline."""

import json
from pathlib import Path

import numpy as np

from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import ImageFile, Mask, Person, Region, Study

FULL, SMALL, CROPPED, BROKEN, OTHER = (
    "patient64541_study1_view1_frontal",
    "patient64542_study1_view1_frontal",
    "patient64543_study1_view1_frontal",
    "patient64544_study1_view1_frontal",
    "patient00001_study1_view1_frontal",
)


def square(x0: float, y0: float, x1: float, y1: float) -> list[list[float]]:
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def study(image: str, *, rows: int, columns: int) -> Study:
    """A study of CheXpert as its importer gives it."""
    file = ImageFile(id=image, path=None, view="AP", rows=rows, columns=columns)
    person, _, rest = image.partition("_")
    return Study(
        id=f"{person}_{rest.partition('_')[0]}",
        person=Person(id=person),
        images=(file,),
        source="chexpert",
        split="val",
    )


def filled(rows: int, columns: int, *boxes: tuple[int, int, int, int]) -> Mask:
    pixels = np.zeros((rows, columns), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = True
    return Mask.encode(pixels)


def build(folder: Path) -> AnnotationReplica:
    size = [232, 282]
    (folder / "gt_annotations_val.json").write_text(
        json.dumps(
            {
                FULL: {
                    "img_size": size,
                    "Airspace Opacity": [square(10, 20, 60, 90), square(50, 80, 80, 120), [[5.0, 5.0]]],
                    "Support Devices": [[[1.0, 1.0], [2.0, 2.0]]],
                },
                SMALL: {"img_size": size, "Cardiomegaly": [square(100, 100, 200, 200)]},
                CROPPED: {"img_size": size, "Edema": [square(0, 0, 20, 20)]},
                BROKEN: {"img_size": size, "Edema": [[["a", 1], [2, 3], [4, 5]]]},
            }
        )
    )
    studies = (
        study(FULL, rows=232, columns=282),
        study(SMALL, rows=116, columns=141),
        study(CROPPED, rows=232, columns=232),
        study(BROKEN, rows=232, columns=282),
        study(OTHER, rows=232, columns=282),
    )
    return AnnotationReplica(
        values={"kind": "chexlocalize", "path": str(folder / "gt_annotations_val.json")},
        studies=studies,
        regions={
            studies[0].id: (
                Region(
                    finding="lung opacity",
                    image=FULL,
                    geometry=filled(232, 282, (10, 20, 60, 90), (50, 80, 80, 120)),
                ),
            ),
            studies[1].id: (
                Region(finding="cardiomegaly", image=SMALL, geometry=filled(116, 141, (50, 50, 100, 100))),
            ),
        },
        refused=(studies[2].id, studies[3].id),
        secrets=("64541", "64543", "64544", "view1_frontal"),
    )
