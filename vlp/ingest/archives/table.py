"""Your own export: one table (CSV, TSV, JSON lines, Parquet) and a configuration that says what its columns mean."""

import difflib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vlp import log
from vlp.config import Config
from vlp.errors import DataError
from vlp.ingest.archives.rows import (
    Row,
    RowBox,
    finding_name,
    load_studies,
    log_outside,
    read_named,
    rows_of,
    sex_of,
    strongest,
    studies_in,
    units_of,
    when,
    years,
)
from vlp.ingest.image_index import image_name
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Encoding, Table, fingerprint, inside
from vlp.records import Certainty, LoadedStudy, Person, Report, Split, View
from vlp.reports.findings import VOCABULARY, canonical

_SAYS: Mapping[str, Literal["present", "absent", "uncertain"]] = {
    "1": "present", "1.0": "present", "true": "present", "yes": "present", "present": "present", "positive": "present",
    "0": "absent", "0.0": "absent", "false": "absent", "no": "absent", "absent": "absent", "negative": "absent",
    "-1": "uncertain", "-1.0": "uncertain", "uncertain": "uncertain",
}  # fmt: skip
_VIEWS: Mapping[str, View] = {
    "PA": "PA", "AP": "AP", "AP SUPINE": "AP", "AP ERECT": "AP", "AP PORTABLE": "AP",
    "L": "lateral", "LL": "lateral", "RL": "lateral", "LAT": "lateral", "LATERAL": "lateral",
}  # fmt: skip
_SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validate": "val", "validation": "val", "dev": "val",
}  # fmt: skip
_SHOWN = 8
"""Column names or categories a message lists at most."""
_LONGEST_CATEGORY = 20
_logger = log.get_logger(__name__)


class Columns(Config):
    """Column names of the table; null where it has none."""

    image: str
    """The image's file, from the folder `images` on."""
    patient: str | None
    """Whose study it is.  Null makes every study a person of its own: then two studies of one patient can fall into
    different splits."""
    study: str | None = None
    """Lines with the same value are one study; null makes every image a study."""
    report: str | None = None
    sections: dict[str, str] = Field(default_factory=dict)
    """Heading -> column, for reports kept in parts, e.g. {findings: Findings, impression: Impression}."""
    view: str | None = None
    split: str | None = None
    age: str | None = None
    sex: str | None = None
    order: str | None = None
    """A number or date (2015-06-22, 20150622) that puts a patient's studies in order."""
    groups: dict[str, str] = Field(default_factory=dict)
    """Group -> column, for results by site, scanner, ...; a blank cell puts nobody into a group."""

    def named(self) -> dict[str, str]:
        """Key of this configuration -> column."""
        single = ("image", "patient", "study", "report", "view", "split", "age", "sex", "order")
        names = {f"columns.{key}": value for key in single if (value := getattr(self, key))}
        names |= {f"columns.sections.{key}": value for key, value in self.sections.items()}
        return names | {f"columns.groups.{key}": value for key, value in self.groups.items()}


class Labels(Config):
    """Where the table says which findings are there."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Column -> the finding it is about, by any name the vocabulary knows, e.g. {PTX: pneumothorax}."""
    values: dict[str, Literal["present", "absent", "uncertain", "unmentioned"]] = Field(default_factory=dict)
    """What cells of these columns say besides 1, 0, -1, yes, no, ...; a blank says nothing."""
    names: str | None = None
    """A column that lists the findings that are present, e.g. "Effusion|Mass" or ["Effusion", "Mass"]."""
    separator: str = "|"

    @model_validator(mode="after")
    def _known(self) -> Self:
        for column, finding in self.columns.items():
            if canonical(finding) is None:
                close = difflib.get_close_matches(finding.lower(), list(VOCABULARY), n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(VOCABULARY)}"
                raise ValueError(f"{column}: the vocabulary has no finding {finding!r}; {hint}")
        return self

    def read(self, row: Mapping[str, str]) -> dict[str, Certainty]:
        """The labels of one row.

        Raises:
            DataError: naming the column whose cell says something unknown, but not what it says.
        """
        said = {name: Certainty.PRESENT for name in map(canonical, self.listed(row)) if name}
        columns = [{str(canonical(finding)): self._value(row, column)} for column, finding in self.columns.items()]
        kept = [{name: value for name, value in each.items() if value is not None} for each in columns]
        return strongest([said, *kept])

    def listed(self, row: Mapping[str, str]) -> list[str]:
        """The names in the column that lists them."""
        cell = row[self.names].strip() if self.names else ""
        names = _json_list(cell) if cell.startswith("[") else cell.split(self.separator)
        return [name.strip() for name in names if name.strip()]

    def _value(self, row: Mapping[str, str], column: str) -> Certainty | None:
        cell = row[column].strip().lower()
        if not cell:
            return None
        said = {key.strip().lower(): value for key, value in self.values.items()}.get(cell, _SAYS.get(cell))
        if said is None:
            raise DataError(f"column {column!r} holds a value that labels.values does not explain")
        return None if said == "unmentioned" else Certainty(said)


class Boxes(Config):
    """Where boxes are: a line each, in the main table or in one of their own; blank edges mean no box."""

    table: Path | None = None
    """Null: the main table, whose image then has several lines."""
    image: str | None = None
    """Column that names the image exactly as `columns.image` does; null where it is called the same."""
    edges: tuple[str, str, str, str]
    """Columns of x0, y0, x1, y1, or of x, y, width, height."""
    form: Literal["corners", "size"] = "corners"
    unit: Literal["pixels", "fractions"] = "pixels"
    """Fractions of the image's width and height, or its pixels; (0, 0) is the top left corner."""
    drawn_on: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """(rows, columns) of the images the pixels count in, where the files are smaller copies."""
    finding: str | None = None
    """Column that names what is in the box."""
    always: str | None = None
    """What is in every box, where no column says it."""

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.finding is None) == (self.always is None):
            raise ValueError("boxes need either `finding` (a column) or `always` (a name)")
        return self

    def named(self, image: str) -> dict[str, str]:
        """Key of this configuration -> column."""
        names = {f"boxes.edges.{place}": column for place, column in enumerate(self.edges)}
        names |= {"boxes.image": self.image or image} if self.table else {}
        return names | ({"boxes.finding": self.finding} if self.finding else {})

    def read(self, row: Mapping[str, str]) -> RowBox | None:
        """The box of one line.

        Raises:
            DataError: for edges that are not all blank and not all numbers, or a box without a name.
        """
        cells = [row[column].strip() for column in self.edges]
        if not any(cells):
            return None
        try:
            a, b, c, d = (float(cell) for cell in cells)
        except ValueError:
            raise DataError("a box is not four numbers") from None
        name = finding_name(self.always or row[str(self.finding)])
        if not name:
            raise DataError("a box has no name")
        edges = (a, b, a + c, b + d) if self.form == "size" else (a, b, c, d)
        return RowBox(finding=name, edges=edges, frame=(1.0, 1.0) if self.unit == "fractions" else self.drawn_on)


class TableSource(Source):
    """A table with a line per image and the folder its image names start from."""

    kind: Literal["table"] = "table"
    table: Path
    """CSV, TSV, JSONL or Parquet, gzipped or not."""
    encoding: Encoding = "utf-8"
    images: Path | None = None
    """Folder that image names start from; null: the table's own."""
    ending: str = ""
    """Of the image files, where the table's names have none or another, e.g. ".png"."""
    columns: Columns
    labels: Labels = Labels()
    boxes: Boxes | None = None
    only: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Column -> cells; other lines are left out and counted, e.g. {Modality: [CR, DX]}."""
    views: dict[str, View] = Field(default_factory=dict)
    """Cell -> view, besides PA, AP, AP supine, L, LL, lateral, ...; what is still unknown counts as "other"."""
    splits: dict[str, Split] = Field(default_factory=dict)
    """Cell -> split, besides train, val, valid, validate, dev, test, ...; a blank leaves it to `splits` of the run."""
    language: str = "en"
    """Of the reports; sentences are read from English ones only."""
    license: str = ""
    title: str | None = None
    """What the archive is called in shards and results; null: the table's name."""

    @property
    def name(self) -> str:
        """The table as it was given."""
        return str(self.table)

    def units(self) -> Sequence[str]:
        """One unit per patient.

        Raises:
            DataError: naming the missing column and what the table has instead; for a table that leaves nothing to
                read; for a split that is unknown or divides a patient.
        """
        table = self._read()
        kept: Sequence[int] = range(len(table.lines))
        for column, cells in self.only.items():
            kept = [index for index in kept if table.columns[column][index].strip() in cells]
        if len(kept) < len(table.lines):
            _logger.info(
                "%s: %d of %d lines left out by `only`", self.table, len(table.lines) - len(kept), len(table.lines)
            )
        groups: dict[str, list[int]] = {}
        patients = self.columns.patient or self.columns.study or self.columns.image
        for index in kept:
            # A line without a patient is a fault of its own.
            groups.setdefault(table.columns[patients][index].strip() or f"\0{index}", []).append(index)
        if not groups:
            raise DataError(f"{self.table}: no line to use; is it empty, or does `only` leave all out?")
        self._judge_splits(table, kept, groups)
        self._tell(table, kept)
        return units_of(groups)

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient, oldest first where `columns.order` says the order."""
        table = self._read()
        studies = studies_in(table, rows_of(unit, table), study=self._study, read=self._row)
        title = self.title or image_name(self.table.stem)
        yield from load_studies(studies, source=title, license=self.license, synthetic=self.synthetic)

    def fingerprint(self) -> str:
        """SHA-256 of the tables."""
        return fingerprint([self.table, self.boxes.table if self.boxes else None])

    def _read(self) -> Table:
        named = self.columns.named() | {f"labels.columns.{column}": column for column in self.labels.columns}
        named |= {f"only.{column}": column for column in self.only}
        named |= {"labels.names": self.labels.names} if self.labels.names else {}
        named |= self.boxes.named(self.columns.image) if self.boxes and self.boxes.table is None else {}
        return read_named(self.table, named, self.encoding)

    def _box_table(self) -> Table | None:
        if self.boxes is None or self.boxes.table is None:
            return None
        return read_named(self.boxes.table, self.boxes.named(self.columns.image), self.encoding)

    def _patient(self, row: Mapping[str, str]) -> str:
        return row[self.columns.patient].strip() if self.columns.patient else self._study(row)

    def _study(self, row: Mapping[str, str]) -> str:
        return row[self.columns.study].strip() if self.columns.study else _image_id(row[self.columns.image])

    def _row(self, row: Mapping[str, str], where: str) -> Row:
        columns = self.columns
        patient, study = self._patient(row), self._study(row)
        if not patient or not study:
            raise DataError("the cell of the patient or of the study is blank")
        groups = {group: cell for group, column in columns.groups.items() if (cell := row[column].strip())}
        return Row(
            where=where,
            image=_image_id(row[columns.image]),
            path=inside(self.images or self.table.parent, self._file(row)),
            study=study,
            person=Person(
                id=patient, age=years(_cell(row, columns.age)), sex=sex_of(_cell(row, columns.sex)), groups=groups
            ),
            view=self._view(row) if columns.view else None,
            report=self._report(row),
            labels=self.labels.read(row),
            boxes=self._boxes(row),
            split=self._split(row),
            order=when(_cell(row, columns.order)),
        )

    def _file(self, row: Mapping[str, str]) -> str:
        name = row[self.columns.image].strip()
        return _image_id(name) + self.ending if name and self.ending else name

    def _view(self, row: Mapping[str, str]) -> View:
        cell = _cell(row, self.columns.view)
        return self.views.get(cell) or _VIEWS.get(cell.upper(), "other")

    def _split(self, row: Mapping[str, str]) -> Split | None:
        cell = _cell(row, self.columns.split)
        split = self.splits.get(cell) or _SPLITS.get(cell.lower())
        if cell and split is None:
            raise DataError("the split is none that `splits` knows")
        return split

    def _report(self, row: Mapping[str, str]) -> Report | None:
        parts = [
            f"{name.upper()}: {row[column]}" for name, column in self.columns.sections.items() if row[column].strip()
        ]
        text = row[self.columns.report] if self.columns.report else "\n".join(parts)
        return Report(text=text, language=self.language) if text.strip() else None

    def _boxes(self, row: Mapping[str, str]) -> tuple[RowBox, ...]:
        if self.boxes is None:
            return ()
        table = self._box_table()
        if table is None:
            lines = [row]
        else:
            groups = table.groups(self.boxes.image or self.columns.image)
            lines = [table.rows[index] for index in groups.get(row[self.columns.image], ())]
        return tuple(box for line in lines if (box := self.boxes.read(line)) is not None)

    def _judge_splits(self, table: Table, kept: Sequence[int], groups: Mapping[str, Sequence[int]]) -> None:
        column = self.columns.split
        if column is None:
            return
        cells = [cell.strip() for cell in table.columns[column]]
        counts = Counter(cells[index] for index in kept)
        unknown = Counter({cell: count for cell, count in counts.items() if cell and not self._knows_split(cell)})
        if unknown:
            raise DataError(
                f"{self.table}: column {column!r} holds splits that `splits` does not know: "
                f"{_categories(unknown)}; map them, e.g. splits: {{fold1: train}}"
            )
        torn = sum(len({cells[index] for index in indices}) > 1 for indices in groups.values())
        if torn and self.columns.patient:
            raise DataError(
                f"{self.table}: {torn} patients are in several splits of column {column!r}, so what is "
                "learned of them would be tested on them; divide by patient, or leave columns.split null"
            )

    def _knows_split(self, cell: str) -> bool:
        return cell in self.splits or cell.lower() in _SPLITS

    def _tell(self, table: Table, kept: Sequence[int]) -> None:
        """Counts what is not kept, once."""
        outside: Counter[str] = Counter()
        for cell, count in _counted(table, kept, self.labels.names).items():
            with suppress(DataError):  # told when the line is loaded
                names = self.labels.listed({str(self.labels.names): cell})
                outside.update({name: count for name in names if canonical(name) is None})
        log_outside(outside)
        views = {
            cell: count
            for cell, count in _counted(table, kept, self.columns.view).items()
            if cell and cell not in self.views and self._view({str(self.columns.view): cell}) == "other"
        }
        if views:
            _logger.info("views that `views` does not know count as other: %s", _categories(Counter(views)))
        boxes = self._box_table()
        if boxes is not None and self.boxes is not None:
            images = set(table.columns[self.columns.image])
            lost = sum(image not in images for image in boxes.columns[self.boxes.image or self.columns.image])
            if lost:
                _logger.warning("%s: %d boxes name an image that %s does not", boxes.path, lost, self.table)


def _counted(table: Table, kept: Sequence[int], column: str | None) -> Counter[str]:
    """How often each cell of a column came, without the blanks around it."""
    return Counter(table.columns[column][index].strip() for index in kept) if column else Counter()


def _image_id(cell: str) -> str:
    """The name without its ending, folders kept, for two folders may hold the same name."""
    folder, slash, name = cell.strip().replace("\\", "/").rpartition("/")
    return folder + slash + image_name(name)


def _json_list(cell: str) -> list[str]:
    try:
        names = json.loads(cell)
    except (json.JSONDecodeError, RecursionError):
        names = None
    if not isinstance(names, list):
        raise DataError("the list of findings is not a list in JSON")
    return [str(name) for name in names]


def _cell(row: Mapping[str, str], column: str | None) -> str:
    return row[column].strip() if column else ""


def _categories(cells: Counter[str]) -> str:
    """Values seen again and again are categories; one seen once may be anything, so it is only counted."""
    shown = [cell for cell, count in cells.most_common(_SHOWN) if count > 1 and len(cell) <= _LONGEST_CATEGORY]
    others = len(cells) - len(shown)
    return ", ".join([*map(repr, shown), *([f"{others} others"] if others else [])])
