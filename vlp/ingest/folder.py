"""Archives that are a folder with a `manifest.jsonl`: one JSON object per image, files named relative to the folder.

Needed per line: `file`, `study_id`, `patient_id`.  Understood: `id source split view frontal sex age text indication
comparison findings impression labels boxes mask license study_order`.  Everything else is ignored.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from vlp import log
from vlp.errors import DataError
from vlp.ingest.images import read_image
from vlp.ingest.source import LUNGS, Source, StudyFault
from vlp.records import (
    Certainty,
    ImageFile,
    LoadedStudy,
    Mask,
    Person,
    Region,
    Report,
    Split,
    Study,
    View,
)
from vlp.reports.findings import canonical

FILE_NAME = "manifest.jsonl"
_CERTAINTY = {1: Certainty.PRESENT, 0: Certainty.ABSENT, -1: Certainty.UNCERTAIN}
_VIEWS: Mapping[str, View] = {"PA": "PA", "AP": "AP", "AP SUPINE": "AP", "L": "lateral", "LATERAL": "lateral"}
_SECTIONS = ("indication", "comparison", "findings", "impression")
_logger = log.get_logger(__name__)


class _Box(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    label: str
    x: float
    y: float
    w: float
    h: float


class _Row(BaseModel):
    """One line; ids are text, so that no leading zero is lost."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    file: str
    study_id: str
    patient_id: str
    id: str | None = None
    source: str = ""
    split: Split | None = None
    view: str | None = None
    frontal: bool | None = None
    sex: str | None = None
    age: float | None = None
    text: str | None = None
    indication: str | None = None
    comparison: str | None = None
    findings: str | None = None
    impression: str | None = None
    labels: dict[str, Literal[1, 0, -1]] = {}
    boxes: tuple[_Box, ...] = ()
    mask: str | None = None
    license: str = ""
    study_order: float | None = None


class FolderSource(Source):
    """A folder with a `manifest.jsonl`; see the module's documentation."""

    kind: Literal["folder"] = "folder"
    path: Path
    """The folder; a relative path starts where the command is run."""
    sources: tuple[str, ...] | None = None
    """Only lines whose `source` is one of these; null takes all."""
    licenses_excluded: tuple[str, ...] = ()
    """Lines are left out whose `license` contains one of these words, e.g. [NC, ND]."""
    unstated_frontal: Literal["PA", "AP", "other"] = "PA"
    """What a frontal image counts as where the archive does not say whether it is PA or AP."""

    def units(self) -> Sequence[str]:
        """One unit per patient: the places of his lines in the manifest, as "line@offset" joined by commas."""
        places: dict[str, list[str]] = {}
        outside: Counter[str] = Counter()
        for number, offset, line in self._lines():
            values = _loads(line)
            patient = values.get("patient_id") if values is not None else None
            if values is None or not isinstance(patient, str):
                places[f"\0{number}"] = [f"{number}@{offset}"]  # its fault is reported when it is loaded
            elif self._wanted(values):
                places.setdefault(patient, []).append(f"{number}@{offset}")
                outside.update(name for name in _names(values.get("labels")) if canonical(name) is None)
        if not places:
            raise DataError(f"{self.path / FILE_NAME}: no image to use; is it empty, or does a filter leave all out?")
        if outside:
            names = ", ".join(f"{name} ({count})" for name, count in sorted(outside.items()))
            _logger.info("labels outside the vocabulary become the person's group 'diagnosis': %s", names)
        return [",".join(lines) for lines in places.values()]

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one patient, oldest first where the archive says the order."""
        studies: dict[str, list[tuple[int, _Row]]] = {}
        for number, line in self._lines_at(unit):
            row = self._row(number, line)
            if isinstance(row, StudyFault):
                yield row
            else:
                studies.setdefault(row.study_id, []).append((number, row))
        ordered = sorted(studies.values(), key=lambda rows: _order(rows[0][1]))
        for rows in ordered:
            order = rows[0][1].study_order
            earlier = [
                other[0][1].study_id for other in ordered if order is not None and _order(other[0][1]) < (0, order)
            ]
            yield self._load_study(rows, tuple(earlier))

    def fingerprint(self) -> str:
        """SHA-256 of the manifest."""
        return hashlib.sha256(self._manifest_bytes()).hexdigest()

    def _load_study(self, rows: list[tuple[int, _Row]], earlier: tuple[str, ...]) -> LoadedStudy | StudyFault:
        images: list[ImageFile] = []
        pixels: list[np.ndarray] = []
        regions: list[Region] = []
        for number, row in rows:
            path = self.path / row.file
            try:
                file, image = read_image(self._inside(row.file))
                id_ = row.id or row.file
                images.append(
                    ImageFile(
                        id=id_,
                        path=path,
                        view=self._view(row),
                        rows=file.rows,
                        columns=file.columns,
                        sha256=file.sha256,
                    )
                )
                pixels.append(image)
                regions.extend(self._regions(row, images[-1]))
            except DataError as error:
                reason = str(error).removeprefix(f"{path}: ")  # a file's name may say whose it is
                return StudyFault(code="unreadable_image", message=f"{self.path / FILE_NAME}: line {number}: {reason}")
        return LoadedStudy(
            study=_study([row for _, row in rows], tuple(images), tuple(regions), earlier), pixels=tuple(pixels)
        )

    def _regions(self, row: _Row, image: ImageFile) -> Iterator[Region]:
        for box in row.boxes:
            edges = (
                max(0.0, box.x),
                max(0.0, box.y),
                min(float(image.columns), box.x + box.w),
                min(float(image.rows), box.y + box.h),
            )
            if edges[0] >= edges[2] or edges[1] >= edges[3]:
                raise DataError("a box lies outside its image")
            yield Region(finding=canonical(box.label) or box.label.lower(), image=image.id, geometry=edges)
        if row.mask is not None:
            yield Region(finding=LUNGS, image=image.id, geometry=self._mask(row.mask, image))

    def _mask(self, file: str, image: ImageFile) -> Mask:
        try:
            with Image.open(self._inside(file), formats=("PNG",)) as picture:
                if (picture.height, picture.width) != (image.rows, image.columns):
                    raise DataError("the mask has another size than its image")
                return Mask.encode(np.asarray(picture.convert("L")) > 0)
        except (OSError, SyntaxError, ValueError):
            raise DataError("the mask is missing or damaged") from None

    def _view(self, row: _Row) -> View:
        view = _VIEWS.get((row.view or "").upper())
        if view is not None:
            return view
        return self.unstated_frontal if row.frontal else "other"

    def _inside(self, file: str) -> Path:
        parts = PurePosixPath(file.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or Path(file).is_absolute():
            raise DataError("a file name leads out of the archive's folder")
        if "\0" in file:
            raise DataError("a file name holds a null character")
        return self.path / file

    def _wanted(self, values: Mapping[str, object]) -> bool:
        if self.sources is not None and values.get("source") not in self.sources:
            return False
        words = set(re.split(r"[^A-Z0-9]+", str(values.get("license") or "").upper()))
        return not any(word.upper() in words for word in self.licenses_excluded)

    def _row(self, number: int, line: bytes) -> _Row | StudyFault:
        read = _loads(line)
        if read is None:
            return StudyFault(code="bad_line", message=f"{self.path / FILE_NAME}: line {number}: not a JSON object")
        try:
            # JSON mode: whole numbers count as ages, lists as tuples, and nothing else is guessed.
            values = {key: value for key, value in read.items() if value is not None}
            return _Row.model_validate_json(json.dumps(values))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            message = f"{self.path / FILE_NAME}: line {number}: {place}: {fault['msg']}"
            return StudyFault(code="bad_line", message=message)

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        """(number, offset, content) of every line that is not blank."""
        offset = 0
        for number, line in enumerate(self._manifest_bytes().splitlines(keepends=True), start=1):
            if line.strip():
                yield number, offset, line
            offset += len(line)

    def _lines_at(self, unit: str) -> Iterator[tuple[int, bytes]]:
        with (self.path / FILE_NAME).open("rb") as file:
            for place in unit.split(","):
                number, offset = place.split("@")
                file.seek(int(offset))
                yield int(number), file.readline()

    def _manifest_bytes(self) -> bytes:
        try:
            return (self.path / FILE_NAME).read_bytes()
        except OSError as error:
            raise DataError(f"{self.path / FILE_NAME}: cannot be read: {error.strerror}") from None


def _study(
    rows: list[_Row], images: tuple[ImageFile, ...], regions: tuple[Region, ...], earlier: tuple[str, ...]
) -> Study:
    first = rows[0]
    text = next((text for row in rows if (text := _report_text(row))), None)
    labels = {name: value for row in rows for name, value in row.labels.items()}
    diagnoses = sorted(name for name, value in labels.items() if value == 1 and canonical(name) is None)
    groups = {"source": first.source} if first.source else {}
    if diagnoses:
        groups["diagnosis"] = ", ".join(diagnoses)
    return Study(
        id=first.study_id,
        person=Person(
            id=first.patient_id,
            age=first.age,
            sex="F" if first.sex == "F" else "M" if first.sex == "M" else None,
            groups=groups,
        ),
        images=images,
        report=Report(text=text) if text else None,
        labels={finding: _CERTAINTY[value] for name, value in labels.items() if (finding := canonical(name))},
        regions=regions,
        source=first.source or FILE_NAME,
        license=first.license,
        split=first.split,
        earlier=earlier,
    )


def _report_text(row: _Row) -> str | None:
    """The report with its headings where the archive keeps its sections apart, else the text as it stands."""
    sections = [(name, getattr(row, name)) for name in _SECTIONS if (getattr(row, name) or "").strip()]
    if sections:
        return "\n".join(f"{name.upper()}: {text}" for name, text in sections)
    return row.text if (row.text or "").strip() else None


def _order(row: _Row) -> tuple[int, float]:
    """Studies without a place in time come last and are nobody's predecessors."""
    return (1, 0.0) if row.study_order is None else (0, row.study_order)


def _names(labels: object) -> Iterable[str]:
    return labels if isinstance(labels, dict) else ()


def _loads(line: bytes) -> dict[str, object] | None:
    try:
        values = json.loads(line)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None
    return values if isinstance(values, dict) else None
