"""A miniature covid-chestxray: notes with line breaks, both ways to name a diagnosis, a CT, licences per image."""

import csv
from pathlib import Path

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.replica import Replica

HEADER = (
    "patientid", "offset", "sex", "age", "finding", "survival", "view", "modality", "date", "location", "folder",
    "filename", "doi", "url", "license", "clinical_notes", "other_notes",
)  # fmt: skip


def row(person: str, name: str, **cells: str) -> tuple[str, ...]:
    values = dict.fromkeys(HEADER, "") | {
        "patientid": person, "filename": name, "modality": "X-ray", "folder": "images", "view": "PA",
    }  # fmt: skip
    return tuple((values | cells)[name] for name in HEADER)


ROWS = (
    row("p417", "jkms-35-e79-g001.jpg", offset="3", sex="M", age="54", finding="COVID-19, ARDS", license="CC BY-SA",
        clinical_notes="Opacity of the right lung,\n\"per Brackwater\"."),
    row("p417", "jkms-35-e79-g000.jpg", offset="0", sex="M", age="54", finding="COVID-19", view="AP Supine"),
    row("p418", "1-s2.0-main.pdf-001.png", finding="Pneumonia/Viral/COVID-19", view="L", license="CC BY-NC-ND 4.0"),
    row("p419", "todo.png", finding="todo"),
    # Left out: a CT.  Faults: no file, a name that leads out, a day in words.
    row("p419", "ct.png", modality="CT", folder="volumes", view="Axial"),
    row("p420", "lost-kettlewell.png"),
    row("p420", "../outside.png"),
    row("p420", "days.png", offset="some"),
)  # fmt: skip


def build(folder: Path) -> Replica:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows((HEADER, *ROWS))
    for number, cells in enumerate(ROWS):
        name = cells[HEADER.index("filename")]
        if name.startswith(("jkms", "1-s2", "todo", "days")):
            write_image(folder / "images" / name, seed=number)
    return Replica(
        source={"kind": "covid_chestxray", "path": folder},
        studies=4,
        persons=3,
        faults={"excluded_modality": 1, "missing_image": 1, "bad_row": 2},
        secrets=("p417", "p418", "p419", "p420", "Brackwater", "kettlewell", "jkms"),
    )
