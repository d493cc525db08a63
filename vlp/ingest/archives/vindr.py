"""VinDr-CXR in the layout of PhysioNet (`annotations/`, `train/`, `test/`) or of Kaggle (`train.csv`, `train/`).

Three radiologists read every training image on their own; the test images hold what five agreed on.  What the readers
say becomes one label by `agreement`, and their boxes become regions by `boxes`.  The archive names no patients: every
image is a study and a person of its own, so that results are by image.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vlp.errors import DataError
from vlp.ingest.archives.headers import header_person
from vlp.ingest.archives.rows import Row, RowBox, finding_name, load_studies, log_outside
from vlp.ingest.image_index import ENDINGS
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside, read_table
from vlp.records import Box, Certainty, LoadedStudy, Person
from vlp.reports.findings import NO_FINDING, canonical

Part = Literal["train", "test"]
LICENSE_PHYSIONET = "PhysioNet Credentialed Health Data License 1.5.0"
LICENSE_KAGGLE = "VinBigData Chest X-ray competition rules: non-commercial research only"

_BOXED = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
    "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
    "Pulmonary fibrosis", "No finding",
)  # fmt: skip
_NAMES = (
    *_BOXED, "Clavicle fracture", "Edema", "Emphysema", "Enlarged PA", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Rib fracture", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease", "Other diseases",
    "Other disease(s)",
)  # fmt: skip
_EDGES = ("x_min", "y_min", "x_max", "y_max")
_ONE_READER = "consensus"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """What one reader saw in one image."""

    reader: str
    finding: str
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tables:
    """The tables of one part."""

    marks: Table
    """A line per box."""
    labels: Table | None
    """A line per image and reader."""
    sizes: Table | None
    """The original sizes, beside a copy of smaller images."""

    @property
    def images(self) -> Table:
        """The table that knows every image."""
        return self.labels or self.marks


class VinDrSource(Source):
    """A folder with VinDr-CXR."""

    kind: Literal["vindr"] = "vindr"
    path: Path
    """Folder that holds `annotations/` (PhysioNet) or `train.csv` (Kaggle)."""
    images: Path | None = None
    """Folder that holds `train/` and `test/`; null: `path`.  DICOM, or PNG and JPEG made of it at full size."""
    parts: tuple[Part, ...] = ("train", "test")
    """Kaggle's test images have no labels; there only "train" is read."""
    agreement: Literal["any", "majority", "all"] = "majority"
    """How many of an image's readers make a finding present."""
    minority: Literal["uncertain", "absent"] = "uncertain"
    """What a finding is that some readers saw, but too few."""
    boxes: Literal["each", "mean", "agreed"] = "agreed"
    """"each" keeps every reader's box; "mean" makes one of those that overlap; "agreed" keeps of these only what as
    many readers drew as `agreement` asks for."""
    overlap: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Boxes of one finding by different readers are the same from this intersection over union on."""

    def units(self) -> Sequence[str]:
        """One unit per image: its part and its first line."""
        units: list[str] = []
        outside: Counter[str] = Counter()
        for part in self._parts():
            tables = self._tables(part)
            units.extend(f"{part}:{rows[0]}" for rows in tables.images.groups("image_id").values())
            outside.update(name for name in tables.marks.columns["class_name"] if name and _finding(name) is None)
        if not units:
            raise DataError(f"{self.path}: the tables name no image")
        log_outside(outside)
        return units

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The study of one image."""
        part, _, first = unit.partition(":")
        if part not in self.parts or not first.isdecimal():
            raise DataError(f"{self.path}: {unit!r:.40} is not a unit of this archive")
        tables = self._tables("train" if part == "train" else "test")
        images = tables.images
        where = images.where(int(first))
        study: list[Row] | StudyFault
        try:
            study = [self._row(tables, images.columns["image_id"][int(first)], part, where)]
        except DataError as error:
            study = StudyFault(code="bad_row", message=f"{where}: {error}")
        yield from load_studies(
            [study], source=self.kind, license=LICENSE_KAGGLE if self._kaggle else LICENSE_PHYSIONET
        )

    def fingerprint(self) -> str:
        """SHA-256 of the tables that are read."""
        return fingerprint(path for part in self._parts() for path in self._paths(part))

    @property
    def _kaggle(self) -> bool:
        return not (self.path / "annotations").is_dir()

    def _parts(self) -> list[Part]:
        return [part for part in dict.fromkeys(self.parts) if part == "train" or not self._kaggle]

    def _paths(self, part: Part) -> tuple[Path, Path | None, Path | None]:
        """Boxes, labels, sizes."""
        if self._kaggle:
            marks = find_table(self.path, f"{part}.csv")
            return marks or self.path / f"{part}.csv", None, find_table(self.path, f"{part}_meta.csv")
        folder = self.path / "annotations"
        return (
            find_table(folder, f"annotations_{part}.csv") or folder / f"annotations_{part}.csv",
            find_table(folder, f"image_labels_{part}.csv") or folder / f"image_labels_{part}.csv",
            None,
        )

    def _tables(self, part: Part) -> _Tables:
        marks, labels, sizes = self._paths(part)
        read = read_table(labels, columns=("image_id",), optional=("rad_id", *_NAMES)) if labels else None
        if read is not None and not read.found.intersection(_NAMES):
            raise DataError(f"{read.path}: none of the 28 labels is a column; is this the right table?")
        return _Tables(
            marks=read_table(marks, columns=("image_id", "class_name", *_EDGES), optional=("rad_id",)),
            labels=read,
            sizes=read_table(sizes, columns=("image_id", "dim0", "dim1")) if sizes else None,
        )

    def _row(self, tables: _Tables, image: str, part: str, where: str) -> Row:
        if not image.strip():
            raise DataError("the cell of the image is blank")
        seen = list(_marked(tables.marks, image))
        asked, said, readers = (_BOXED, seen, set()) if tables.labels is None else _labelled(tables.labels, image)
        readers |= {read.reader for read in seen}
        frame = _frame(tables.sizes, image)
        file = self._file(image, part)
        known = header_person(file)
        return Row(
            where=where,
            image=image,
            path=file,
            study=image,
            # 000Y stands for an age that is not known.
            person=Person(id=image, age=(known.age or None) if known else None, sex=known.sex if known else None),
            view="PA",  # the archive was chosen so: "posteroanterior" by header and by eye
            labels=self._labels(said, asked, len(readers)),
            boxes=tuple(
                RowBox(finding=finding, edges=box, frame=frame) for finding, box in self._fused(seen, len(readers))
            ),
            split=None if self._kaggle else "train" if part == "train" else "test",
        )

    def _file(self, image: str, part: str) -> Path:
        folder = self.images or self.path
        files = [inside(folder, f"{part}/{image}{ending}") for ending in (".dicom", *ENDINGS)]
        return next((file for file in files if file.is_file()), files[0])

    def _needed(self, num_readers: int) -> int:
        return {"any": 1, "majority": num_readers // 2 + 1, "all": num_readers}[self.agreement]

    def _labels(self, seen: Sequence[_Read], asked: Sequence[str], num_readers: int) -> dict[str, Certainty]:
        """One certainty per finding the readers were asked about.

        "No finding" follows from the others, so that it cannot contradict them: present if nothing is, uncertain
        beside an uncertain finding, and where no reader called the image normal.
        """
        votes = Counter(finding for _, finding in {(read.reader, read.finding) for read in seen})
        decided = {name: self._decide(votes[name], num_readers) for name in votes if name != NO_FINDING}
        absent = {finding: Certainty.ABSENT for name in asked if (finding := _finding(name)) is not None}
        labels = absent | {name: certainty for name, certainty in decided.items() if canonical(name) == name}
        if NO_FINDING in absent:
            certainties = set(decided.values())
            if Certainty.PRESENT in certainties:
                labels[NO_FINDING] = Certainty.ABSENT
            elif Certainty.UNCERTAIN in certainties or not votes[NO_FINDING]:
                labels[NO_FINDING] = Certainty.UNCERTAIN
            else:
                labels[NO_FINDING] = Certainty.PRESENT
        return labels

    def _decide(self, votes: int, num_readers: int) -> Certainty:
        if votes >= self._needed(num_readers):
            return Certainty.PRESENT
        return Certainty.UNCERTAIN if self.minority == "uncertain" else Certainty.ABSENT

    def _fused(self, seen: Sequence[_Read], num_readers: int) -> Iterator[tuple[str, Box]]:
        drawn: dict[str, list[tuple[Box, str]]] = {}
        for read in seen:
            if read.box is not None:
                drawn.setdefault(read.finding, []).append((read.box, read.reader))
        for finding, boxes in drawn.items():
            if self.boxes == "each":
                yield from ((finding, box) for box, _ in boxes)
                continue
            for cluster in cluster_boxes(boxes, overlap=self.overlap):
                if self.boxes == "mean" or len(cluster) >= self._needed(num_readers):
                    yield finding, mean_box(cluster)


def cluster_boxes(boxes: Sequence[tuple[Box, str]], *, overlap: float) -> list[list[Box]]:
    """Boxes (with their readers) gathered to what they are meant for.

    In order of their edges, so that the order of the file does not matter, a box joins the cluster whose mean it
    overlaps most, from `overlap` (intersection over union) on, unless its reader has a box there already: what one
    reader drew as two things stays two.
    """
    clusters: list[dict[str, Box]] = []
    for box, reader in sorted(boxes):
        free = [cluster for cluster in clusters if reader not in cluster]
        nearest = max(free, key=lambda cluster: _overlap(mean_box([*cluster.values()]), box), default=None)
        if nearest is not None and _overlap(mean_box([*nearest.values()]), box) >= overlap:
            nearest[reader] = box
        else:
            clusters.append({reader: box})
    return [[*cluster.values()] for cluster in clusters]


def mean_box(boxes: Sequence[Box]) -> Box:
    """Edge by edge."""
    x0, y0, x1, y1 = (sum(edges) / len(boxes) for edges in zip(*boxes, strict=True))
    return x0, y0, x1, y1


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)


def _finding(name: str) -> str | None:
    """The finding of our vocabulary; a nodule or mass, and a tumour, are what CheXpert calls a lung lesion."""
    return "lung lesion" if name.strip().lower() in ("nodule/mass", "lung tumor") else canonical(name)


def _marked(table: Table, image: str) -> Iterator[_Read]:
    for index in table.groups("image_id").get(image, ()):
        row = table.rows[index]
        name = row["class_name"].strip()
        if not name:
            raise DataError("a box has no name")
        yield _Read(
            reader=row["rad_id"].strip() or _ONE_READER, finding=_finding(name) or finding_name(name), box=_box(row)
        )


def _box(row: Mapping[str, str]) -> Box | None:
    cells = [row[edge].strip() for edge in _EDGES]
    if not any(cells):
        return None
    try:
        x0, y0, x1, y1 = (float(cell) for cell in cells)
    except ValueError:
        raise DataError("a box is not four numbers") from None
    return x0, y0, x1, y1


def _labelled(table: Table, image: str) -> tuple[Sequence[str], list[_Read], set[str]]:
    """What readers were asked about, what they saw, and who they are."""
    asked = [name for name in _NAMES if name in table.found]
    seen: list[_Read] = []
    readers: set[str] = set()
    for index in table.groups("image_id").get(image, ()):
        row = table.rows[index]
        reader = row["rad_id"].strip() or _ONE_READER
        readers.add(reader)
        for name in asked:
            value = row[name].strip().removesuffix(".0")
            if value not in ("0", "1"):
                raise DataError(f"column {name!r} holds neither 0 nor 1")
            if value == "1":
                seen.append(_Read(reader=reader, finding=_finding(name) or finding_name(name)))
    return asked, seen, readers


def _frame(sizes: Table | None, image: str) -> tuple[float, float] | None:
    """Rows and columns of the image whose pixels the boxes count, where copies were made smaller."""
    rows = sizes.groups("image_id").get(image) if sizes is not None else None
    if sizes is None or not rows:
        return None
    try:
        frame = float(sizes.columns["dim0"][rows[0]]), float(sizes.columns["dim1"][rows[0]])
    except ValueError:
        frame = (0.0, 0.0)
    if min(frame) <= 0:
        raise DataError(f"{sizes.where(rows[0])}: the size is none")
    return frame
