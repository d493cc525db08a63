"""Chest ImaGenome: boxes in a square of 224 and in the original, one over the border, one outside, denied findings,
attributes that are no findings, lists of images that are not MIMIC-CXR's splits, an image that was made smaller."""

import json
from pathlib import Path
from typing import Any

from tests.contracts.miniature import write_csv
from tests.ingest.annotations.replicas.ms_cxr import image, study
from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import Region

FIRST, SMALL = "02aa804e-bde0afdd", "174413ec-4ec4c1f7"
ROWS, COLUMNS = 2240, 1792


def part(name: str, *box: int) -> dict[str, Any]:
    """An anatomical part; its place in the original is ten times that in the small square."""
    edges = ("x1", "y1", "x2", "y2")
    return {
        "object_id": f"{FIRST}_{name}",
        **dict(zip(edges, box, strict=True)),
        "bbox_name": name,
        "name": name.capitalize(),
        "synsets": ["C0000000"],
        **{f"original_{edge}": value * 10 for edge, value in zip(edges, box, strict=True)},
        "original_width": (box[2] - box[0]) * 10,
        "original_height": (box[3] - box[1]) * 10,
    }


def said(name: str, *phrases: list[str]) -> dict[str, Any]:
    return {
        "bbox_name": name,
        name: True,
        "attributes": list(phrases),
        "phrases": ["zebrawood effusion"] * len(phrases),
        "object_id": f"{FIRST}_{name}",
    }


def graph(image_id: str) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "viewpoint": "PA",
        "patient_id": 10000032,
        "study_id": 50414267,
        "objects": [
            part("right lung", 10, 20, 80, 180),
            part("left lung", 100, 20, 181, 180),
            part("left costophrenic angle", 150, 150, 170, 170),
            part("abdomen", 180, 200, 224, 224),
        ],
        "attributes": [
            said("right lung", ["anatomicalfinding|no|pneumothorax", "nlp|yes|normal"]),
            said(
                "left lung",
                ["anatomicalfinding|yes|lung opacity", "disease|yes|pneumonia", "texture|yes|patchy"],
                ["anatomicalfinding|no|lung opacity"],
            ),
            said("left costophrenic angle", ["anatomicalfinding|yes|costophrenic angle blunting"]),
            said("spine", ["anatomicalfinding|yes|scoliosis"]),
        ],
    }


def build(folder: Path) -> AnnotationReplica:
    graphs = folder / "silver_dataset/scene_graph"
    graphs.mkdir(parents=True)
    (folder / "silver_dataset/splits").mkdir()
    for image_id in (FIRST, SMALL):
        (graphs / f"{image_id}_SceneGraph.json").write_text(json.dumps(graph(image_id)))
    write_csv(
        folder / "silver_dataset/splits/valid.csv",
        [{"": 0, "subject_id": "10000032", "study_id": "50414267", "dicom_id": FIRST, "ViewPosition": "PA"}],
    )
    right, left, angle = (
        (100.0, 200.0, 800.0, 1800.0),
        (1000.0, 200.0, 1792.0, 1800.0),
        (1500.0, 1500.0, 1700.0, 1700.0),
    )
    return AnnotationReplica(
        values={"kind": "chest_imagenome", "path": str(folder)},
        studies=(
            study("50414267", "10000032", image(FIRST, rows=ROWS, columns=COLUMNS)),
            study("50414268", "10000764", image(SMALL, rows=ROWS // 4, columns=COLUMNS // 4)),
            study("51029427", "11000012", image("of no graph")),
        ),
        regions={
            "50414267": tuple(
                Region(finding=finding, image=FIRST, geometry=box)
                for finding, box in (
                    ("right lung", right),
                    ("left lung", left),
                    ("left costophrenic angle", angle),
                    ("lung opacity", left),
                    ("pneumonia", left),
                    ("costophrenic angle blunting", angle),
                )
            )
        },
        refused=("50414268",),
        secrets=("10000032", FIRST, SMALL, "zebrawood"),
    )
