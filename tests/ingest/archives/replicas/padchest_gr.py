"""PadChest-GR: grounded reports in JSON, the master table with a line per label, and the images."""

import json
from pathlib import Path

from tests.ingest.archives.replicas.replica import Replica
from tests.ingest.archives.replicas.table import picture

EFFUSION = {
    "sentence_en": "Left pleural effusion with laminar atelectasis.",
    "sentence_es": "Derrame pleural izquierdo con atelectasia laminar.",
    "abnormal": True,
    "boxes": [[0.5, 0.6, 0.95, 1.0], [0.55, 0.5, 0.9, 0.6]],
    "extra_boxes": [[0.1, 0.1, 0.2, 0.2]],
    "labels": ["Pleural effusion", "Laminar atelectasis"],
    "locations": ["left", "costophrenic angle"],
    "progression": None,
}
NORMAL = {"sentence_en": "No pneumothorax.", "sentence_es": "Sin neumotórax.", "abnormal": False, "boxes": None}
ENTRIES = (
    {"StudyID": "70011", "ImageID": "2168_a.png", "findings": [EFFUSION, NORMAL]},
    {"StudyID": "70012", "ImageID": "2168_b.png", "findings": [NORMAL]},
    {"StudyID": "70013", "ImageID": "2168_c.png", "findings": [{**EFFUSION, "labels": [], "extra_boxes": []}]},
    {"StudyID": "70014", "ImageID": "2168_outside.png", "findings": [{**EFFUSION, "boxes": [[0.5, 0.5, 1.4, 1.0]]}]},
    {"StudyID": "70015", "ImageID": "2168_gone.png", "findings": []},
    {"StudyID": "70016", "ImageID": "2168_foreign.png", "findings": []},
    {"StudyID": "70017", "ImageID": "2168_odd.png", "findings": [{"sentence_en": "Nódulo", "boxes": [[0.1, 0.2]]}]},
)
MASTER = (
    "StudyID,ImageID,PatientID,PatientSex_DICOM,split,label,label_group",
    "70011,2168_a.png,3145,F,train,Pleural effusion,Pleural effusion",
    "70011,2168_a.png,3145,F,train,Laminar atelectasis,Atelectasis",
    "70012,2168_b.png,3145,F,train,,Normal",
    "70013,2168_c.png,3146,M,validation,,",
    "70014,2168_outside.png,3147,M,test,,",
    "70015,2168_gone.png,3148,M,test,,",
    "70017,2168_odd.png,3149,M,test,,",
)


def build(folder: Path) -> Replica:
    (folder / "grounded_reports_20240819.json").write_text(json.dumps(ENTRIES, ensure_ascii=False), encoding="utf-8")
    (folder / "master_table.csv").write_text("\n".join([*MASTER, ""]))
    for seed, name in enumerate(("a", "b", "c", "outside", "foreign", "odd")):
        picture(folder / "Padchest_GR_files/PadChest_GR" / f"2168_{name}.png", rows=60, seed=seed, bits=16)
    return Replica(
        source={
            "kind": "padchest_gr",
            "path": str(folder),
            "images": str(folder / "Padchest_GR_files/PadChest_GR"),
        },
        studies=3,
        persons=2,
        faults={"bad_box": 1, "missing_image": 1, "bad_row": 2},
        secrets=("70011", "70014", "2168_", "3145", "Derrame", "effusion with laminar", "Nódulo"),
    )
