"""RadGraph: tokens with blanks around them, modifiers of modifiers, denied and uncertain observations, a graph whose
relations lead nowhere, a test set with two readers, a study of CheXpert."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.ingest.annotations.replicas.ms_cxr import image, study
from tests.ingest.annotations.replicas.replica import AnnotationReplica
from vlp.records import Certainty

REPORT = """                                 FINAL REPORT
 FINDINGS:

 There is a small left pleural
 effusion.  No pneumothorax.  Possible zebrawood opacity
 in the right lower lobe.  Lungs clear.
"""
TEXT = (
    "There is a small left pleural effusion . No pneumothorax . Possible zebrawood opacity in the right lower lobe ."
    " Lungs clear ."
)


def entity(label: str, first: int, *relations: tuple[str, str], text: str = TEXT) -> dict[str, Any]:
    tokens = text.split()[first]
    return {"tokens": tokens, "label": label, "start_ix": first, "end_ix": first, "relations": [*map(list, relations)]}


ENTITIES = {
    "1": entity("OBS-DP", 3, ("modify", "4")),
    "2": entity("ANAT-DP", 4, ("modify", "3")),
    "3": entity("ANAT-DP", 5),
    "4": entity("OBS-DP", 6, ("located_at", "3")),
    "5": entity("OBS-DA", 9),
    "6": entity("OBS-U", 12, ("modify", "7")),
    "7": entity("OBS-U", 13, ("located_at", "10"), ("suggestive_of", "5")),
    "8": entity("ANAT-DP", 16, ("modify", "10")),
    "9": entity("ANAT-DP", 17, ("modify", "10")),
    "10": entity("ANAT-DP", 18),
    "11": entity("ANAT-DP", 20),
    "12": entity("OBS-DP", 21, ("located_at", "11")),
}


def graph(entities: Mapping[str, Any]) -> dict[str, Any]:
    return {"text": TEXT, "entities": entities, "data_source": None, "data_split": "inference"}


def build(folder: Path) -> AnnotationReplica:
    broken = {"1": entity("OBS-DP", 6, ("located_at", "99"))}
    (folder / "MIMIC-CXR_graphs.json").write_text(
        json.dumps(
            {
                "p10/p10000032/s50414267.txt": graph(ENTITIES),
                "p10/p10000764/s57375967.txt": graph(broken),
            }
        )
    )
    readers = {"labeler_1": {"entities": {"1": ENTITIES["5"]}}, "labeler_2": {"entities": {}}}
    (folder / "test.json").write_text(
        json.dumps({"train/patient64541/study1/view1_frontal.txt": {"text": TEXT, **readers}})
    )
    return AnnotationReplica(
        values={"kind": "radgraph", "path": str(folder), "sentences": "replace", "labels": "complete"},
        studies=(
            study("50414267", "10000032", image("a"), text=REPORT),
            study("57375967", "10000764", image("b"), text=REPORT),
            study("patient64541_study1", "patient64541", image("c"), text=REPORT),
            study("51029426", "11000011", image("d"), text=REPORT),
            study("51029427", "11000012", image("e")),
        ),
        labels={
            "50414267": {
                "pleural effusion": Certainty.PRESENT,
                "pneumothorax": Certainty.ABSENT,
                "lung opacity": Certainty.UNCERTAIN,
                "consolidation": Certainty.ABSENT,
            },
            "patient64541_study1": {"pneumothorax": Certainty.ABSENT},
        },
        sentences={"50414267": 5, "patient64541_study1": 1},
        refused=("57375967",),
        secrets=("10000032", "57375967", "patient64541", "zebrawood"),
    )
