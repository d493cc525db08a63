"""Boxes and outlines in COCO's JSON for images of another archive, drawn on images of twice the size."""

import json
from pathlib import Path

import numpy as np

from tests.ingest.annotations.replicas.replica import AnnotationReplica
from tests.ingest.archives.replicas.coco import mark
from vlp.records import Certainty, ImageFile, Mask, Person, Region, Study

DRAWN, BROKEN, OTHER = "4f31ab-0001", "4f31ab-0002", "4f31ab-0003"


def study(name: str, *images: str) -> Study:
    """A study of some archive with images of 32 rows and 48 columns."""
    files = tuple(ImageFile(id=image, path=None, view="PA", rows=32, columns=48) for image in images)
    return Study(id=name, person=Person(id=name), images=files, source="table", labels={"mass": Certainty.ABSENT})


def build(folder: Path) -> AnnotationReplica:
    names = (f"files/p10/{DRAWN}.jpg", f"{BROKEN}.dcm.png", "of-no-archive.png")
    images = [{"id": f"i{number}", "file_name": name, "width": 96, "height": 64} for number, name in enumerate(names)]
    annotations = [
        mark(0, 1, bbox=[10, 20, 30, 40]) | {"image_id": "i0"},
        mark(0, 2, segmentation=[[0, 0, 96, 0, 96, 32, 0, 32]]) | {"image_id": "i0"},
        mark(0, 2, bbox=[1, 1, 9, 9], iscrowd=1) | {"image_id": "i0"},
        mark(0, 3, bbox=[1, 1, 9, 9]) | {"image_id": "i0"},
        mark(0, 1, bbox=[90, 20, 30, 40]) | {"image_id": "i1"},
    ]
    categories = [{"id": 1, "name": "Mass"}, {"id": 2, "name": "Lungs"}, {"id": 3, "name": "letter"}]
    path = folder / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    upper = np.zeros((32, 48), dtype=bool)
    upper[:16] = True
    return AnnotationReplica(
        values={"kind": "coco_boxes", "path": path, "categories": {"letter": None}, "labels": "add"},
        studies=(study("s1", OTHER, DRAWN), study("s2", BROKEN), study("s3", OTHER)),
        regions={
            "s1": (
                Region(finding="mass", image=DRAWN, geometry=(5.0, 10.0, 20.0, 30.0)),
                Region(finding="lungs", image=DRAWN, geometry=Mask.encode(upper)),
            )
        },
        labels={"s1": {"mass": Certainty.PRESENT}},
        refused=("s2",),
        secrets=("4f31ab",),
    )
