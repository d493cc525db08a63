"""CheXpert (v1.0, v1.0-small and its test set): one line per image, no reports; train is labelled by a program.

Read: `train.csv`, `valid.csv` and, when asked for, the test set's labels (`test.csv`, `test_labels.csv` or
`groundtruth.csv`, a line per image or per study), and the images the tables name.  The first folder of a name
("CheXpert-v1.0-small/...") is the archive itself, whatever it is called here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, sex_of, years
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Certainty, LoadedStudy, Person, Split, View
from vlp.reports.findings import LABEL_SETS

SOURCE = "chexpert"
LICENSE = "Stanford University Dataset Research Use Agreement"
LABELS = LABEL_SETS["chexpert14"]
"""Column of the 14 labels -> canonical name."""

TableName = Literal["train", "valid", "test"]
_FILES: Mapping[TableName, tuple[str, ...]] = {
    "train": ("train.csv",),
    "valid": ("valid.csv",),
    "test": ("test.csv", "test_labels.csv", "groundtruth.csv"),
}
_SPLITS: Mapping[str, Split] = {"train": "train", "valid": "val", "test": "test"}
_READERS = {"train": "labeler", "valid": "radiologists", "test": "radiologists"}
_CERTAINTY = {"1": Certainty.PRESENT, "0": Certainty.ABSENT, "-1": Certainty.UNCERTAIN}
_PLACE = re.compile(
    r"(?:[^/]+/)?(?P<folder>(?P<part>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+))"
    r"(?:/(?P<image>view\d+_(?:frontal|lateral))\.\w+)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What the name of an image (or of a study's folder) in a table of CheXpert's says."""

    name: str
    """The file, from the archive's folder on."""
    folder: str
    split: Split
    person: str
    study: str
    image: str


def place_of(cell: str) -> Place:
    """The parts of "CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg"; the first folder may be missing.

    Raises:
        DataError: for a name that is built in another way.
    """
    cell = cell.strip()
    match = _PLACE.fullmatch(cell)
    if match is None:
        raise DataError("the path is not like train/patient00001/study1/view1_frontal.jpg")
    study = f"{match['patient']}_{match['study']}"
    return Place(
        name=cell[match.start("folder") :],
        folder=match["folder"],
        split=_SPLITS[match["part"]],
        person=match["patient"],
        study=study,
        image=f"{study}_{match['image']}" if match["image"] else study,
    )


def labels_of(row: Mapping[str, str]) -> dict[str, Certainty]:
    """Canonical name -> certainty for the cells 1, 0 and -1 (also 1.0, ...) of the 14 columns; a blank says nothing.

    Raises:
        DataError: for a cell that holds anything else, naming its column.
    """
    labels = {}
    for column, finding in LABELS.items():
        cell = row.get(column, "").strip()
        if cell:
            certainty = _CERTAINTY.get(cell.removesuffix(".0"))
            if certainty is None:
                raise DataError(f"column {column!r} holds neither 1, 0, -1 nor a blank")
            labels[finding] = certainty
    return labels


def age_of(cell: str) -> float | None:
    """Years; CheXpert's persons are adults, and 0 stands for an age that is not known."""
    return years(cell) or None


def view_of(side: str, projection: str, *, unstated_frontal: View) -> View:
    """The view from "Frontal"/"Lateral" and "AP"/"PA"; a frontal image called LL or RL states no projection."""
    if side.strip().lower() == "lateral":
        return "lateral"
    match projection.strip().upper():
        case "PA":
            return "PA"
        case "AP":
            return "AP"
    return unstated_frontal if side.strip().lower() == "frontal" else "other"


class CheXpertSource(Source):
    """CheXpert in a folder; see the module's documentation.

    The archive does not say when an image was taken, so no study counts as earlier than another.
    """

    kind: Literal["chexpert"] = "chexpert"
    path: Path
    """The folder with `train.csv` and `valid.csv`, and `train/`, `valid/` (and `test/`) beside them."""
    tables: Annotated[tuple[TableName, ...], Field(min_length=1)] = ("train", "valid")
    """Which of its tables are read; each is a split of its own."""
    unstated_frontal: Literal["PA", "AP", "other"] = "AP"
    """What a frontal image counts as that is called neither AP nor PA; five of six images are AP."""

    def units(self) -> Sequence[str]:
        """One unit per patient: a table's name and the numbers of his rows."""
        units: list[str] = []
        for name in dict.fromkeys(self.tables):
            table = self._table(name)
            groups: dict[str, list[int]] = {}
            for index, cell in enumerate(_names(table)):
                match = _PLACE.fullmatch(cell.strip())
                # A name that cannot be read is a unit of its own; its fault is reported when it is loaded.
                groups.setdefault(match["patient"] if match else f"\0{index}", []).append(index)
            units.extend(f"{name}:{','.join(map(str, indices))}" for indices in groups.values())
        if not units:
            raise DataError(f"{self.path}: the tables {', '.join(self.tables)} name no image")
        return units

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient, in the order of the table."""
        name, _, numbers = unit.partition(":")
        table = self._table(name)  # type: ignore[arg-type]
        studies: dict[str, list[Row]] = {}
        faults: list[StudyFault] = []
        for index in map(int, numbers.split(",")):
            try:
                for row in self._rows(table, index):
                    studies.setdefault(row.study, []).append(row)
            except DataError as error:
                faults.append(StudyFault(code="bad_row", message=f"{table.where(index)}: {error}"))
        yield from load_studies([*faults, *studies.values()], source=SOURCE, license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of the tables that are read."""
        return fingerprint(find_table(self.path, *_FILES[name]) for name in self.tables)

    def _table(self, name: TableName) -> Table:
        path = find_table(self.path, *_FILES[name])
        if path is None:
            raise DataError(f"{self.path / _FILES[name][0]}: the table is missing; is this the folder of CheXpert?")
        about = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
        if name == "test":
            table = read_table(path, columns=tuple(LABELS), optional=("Path", "Study", *about))
            if not table.found & {"Path", "Study"}:
                raise DataError(f"{path}: column 'Path' is missing; is this the right table?")
            return table
        return read_table(path, columns=("Path", *about, *LABELS))

    def _rows(self, table: Table, index: int) -> Iterator[Row]:
        """One row, or one per image in the folder of a study where the table's lines are studies."""
        row = table.rows[index]
        place = place_of(_names(table)[index])
        side = row["Frontal/Lateral"]
        for image in [place] if place.image != place.study else self._images(place):
            yield Row(
                where=table.where(index),
                image=image.image,
                path=inside(self.path, image.name),
                study=image.study,
                person=Person(
                    id=image.person,
                    age=age_of(row["Age"]),
                    sex=sex_of(row["Sex"]),
                    groups={"labels": _READERS[image.folder.partition("/")[0]]},
                ),
                view=view_of(
                    side or image.image.rpartition("_")[2], row["AP/PA"], unstated_frontal=self.unstated_frontal
                ),
                labels=labels_of(row),
                split=image.split,
            )

    def _images(self, study: Place) -> list[Place]:
        files = sorted(path.name for path in (self.path / study.folder).glob("view*_*.*"))
        if not files:
            raise DataError("the study's folder holds no image")
        return [place_of(f"{study.folder}/{file}") for file in files]


def _names(table: Table) -> Sequence[str]:
    return table.columns["Path" if "Path" in table.found else "Study"]
