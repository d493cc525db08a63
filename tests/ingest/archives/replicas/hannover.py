"""A miniature of the Hannover repository: days counted backwards, lower-case views, a CT, no ages."""

from pathlib import Path

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica

HEADER = "patient_id,image_id,sex,age,size,weight,admission_offset,icu_admission_offset,modality,projection,crp_val"
ROWS = (
    "024e7871,fff13f3a,f,,,,-7,,CR,ap,3.0",
    "024e7871,0578e08b,f,,,,0,,CR,pa,3.0",
    "042f06a9,b343e657,m,71,,,,0.0,DX,pa,5.0",
    # Left out: a CT.  Faults: no file, a day that is none, the same image twice.
    "042f06a9,006f3a8a,m,71,,,0,,CT,,5.0",
    "08d780ae,11aa22bb,m,,,,0,,CR,pa,",
    "08d780ae,33cc44dd,m,,,,soon,,CR,pa,",
    "08d780ae,55ee66ff,m,,,,0,,CR,pa,",
    "08d780ae,55ee66ff,m,,,,1,,CR,pa,",
)


def build(folder: Path) -> Replica:
    (folder / "data.csv").write_text("\n".join((HEADER, *ROWS)) + "\n")
    for number, name in enumerate(dict.fromkeys(row.split(",")[1] for row in ROWS)):
        if name != "11aa22bb":
            write_image(folder / "png" / f"{name}.png", seed=number)
    return Replica(
        source={"kind": "hannover", "path": folder},
        studies=3,
        persons=2,
        faults={"excluded_modality": 1, "missing_image": 1, "bad_row": 2},
        secrets=("024e7871", "042f06a9", "08d780ae", "fff13f3a", "11aa22bb", "55ee66ff"),
    )
