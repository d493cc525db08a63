"""ChestX-Det and ChestX-Det10: NIH images with a box (and in ChestX-Det a polygon) around every finding.

Reads `ChestX_Det_train.json` and `ChestX_Det_test.json`, or the `train.json` and `test.json` of ChestX-Det10, and the
images by name from any folder below (`train_data`, `test_data`).  The archive does not say whose images
they are: every image is a study and a person of its own.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, RowBox, finding_name, load_studies, log_outside
from vlp.ingest.geometry import polygon_mask
from vlp.ingest.image_index import image_name, index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.splits import Fraction, assign
from vlp.ingest.tables import find_table, fingerprint, read_json
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Region, Split
from vlp.reports.findings import NO_FINDING, canonical

LICENSE = "annotations Apache-2.0; images NIH Clinical Center: no restriction on use, asks for an acknowledgement"
TABLES: Mapping[Split, tuple[str, ...]] = {
    "train": ("ChestX_Det_train.json", "train.json"),
    "test": ("ChestX_Det_test.json", "test.json"),
}
FINDINGS_10 = (
    "Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule",
    "Pneumothorax",
)  # fmt: skip
FINDINGS_13 = (*FINDINGS_10, "Cardiomegaly", "Diffuse Nodule", "Pleural Thickening")
FRAME = (1024.0, 1024.0)
"""(rows, columns) of the released images, in whose pixels boxes and polygons are given."""
_ALSO = {"Diffuse Nodule": "nodule"}
"""Names outside the vocabulary that state one of its findings."""


class _Record(BaseModel):
    """One image of the archive's files."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)
    file_name: str
    syms: tuple[str, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    polygons: tuple[tuple[tuple[float, float], ...], ...] | None = None

    @model_validator(mode="after")
    def _parallel(self) -> "_Record":
        if len(self.boxes) != len(self.syms) or len(self.polygons or self.boxes) != len(self.boxes):
            raise ValueError("there are not as many names as boxes and polygons")
        return self


class ChestXDetSource(Source):
    """ChestX-Det or ChestX-Det10; see the module's documentation."""

    kind: Literal["chestx_det"] = "chestx_det"
    path: Path
    """The folder with the JSON files."""
    parts: Annotated[tuple[Literal["train", "test"], ...], Field(min_length=1)] = ("train", "test")
    """The files to read; both must be there unless this says otherwise."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    regions: Literal["masks", "boxes"] = "masks"
    """What becomes of a finding that has both a polygon and a box; ChestX-Det10 has boxes only."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether a record without an image file is a fault, or is left out and counted (for a part of the archive)."""
    val_fraction: Fraction = 0.1
    """Share of the official training images that becomes the validation split."""
    salt: str = "vlp"
    """Another salt gives another, equally random validation split."""

    def units(self) -> Sequence[str]:
        """One unit per image: its split and its number in the file of that split.

        Raises:
            DataError: without files or images, or if a file is not a list.
        """
        index_images.cache_clear()
        records = {split: self._records(split) for split in self._tables()}
        names = Counter(name for all_ in records.values() for values in all_ if (name := _name(values)) is not None)
        if self._index().keys().isdisjoint(names):
            raise DataError(f"{self.path}: none of the images is there; name their folder with `images`")
        if repeated := sum(count > 1 for count in names.values()):
            raise DataError(f"{self.path}: {repeated} images are in the files more than once; are both of one release?")
        syms = Counter(name for all_ in records.values() for values in all_ for name in _syms(values))
        log_outside({name: count for name, count in syms.items() if canonical(name) is None and name not in _ALSO})
        return [f"{split}:{number}" for split, all_ in records.items() for number in range(len(all_))]

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The one image of a unit."""
        split, values, where = self._find(unit)
        if self.absent_images == "leave_out" and _name(values) not in self._index():
            yield StudyFault(code="excluded_absent", message=f"{where}: the image is not there")
            return
        try:
            record = _Record.model_validate_json(json.dumps(values))
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in fault["loc"])
            yield StudyFault(code="bad_row", message=f"{where}: {place}: {fault['msg']}")
            return
        outlined = self.regions == "masks" and record.polygons is not None
        row = self._row(record, split, where, boxed=not outlined)
        for item in load_studies([[row]], source="chestx-det", license=LICENSE):
            yield _with_masks(item, record, where) if outlined and isinstance(item, LoadedStudy) else item

    def fingerprint(self) -> str:
        """SHA-256 over the JSON files."""
        return fingerprint([find_table(self.path, *names) for names in TABLES.values()])

    def _tables(self) -> dict[Split, Path]:
        found: dict[Split, Path] = {}
        for part in self.parts:
            path = find_table(self.path, *TABLES[part])
            if path is None:
                raise DataError(
                    f"{self.path}: holds neither {' nor '.join(TABLES[part])}; name what is there in `parts`"
                )
            found[part] = path
        return found

    def _records(self, split: Split) -> Sequence[Any]:
        path = self._tables()[split]
        return _read_list(path, path.stat().st_mtime_ns)

    def _index(self) -> Mapping[str, Path]:
        return index_images(self.images or self.path)

    def _find(self, unit: str) -> tuple[Split, Any, str]:
        name, _, number = unit.partition(":")
        for split, path in self._tables().items():
            records = self._records(split)
            if split == name and number.isdecimal() and int(number) < len(records):
                return split, records[int(number)], f"{path}: record {int(number) + 1}"
        raise DataError(f"{self.path}: {unit!r:.40} is not a unit of this archive")

    def _row(self, record: _Record, split: Split, where: str, *, boxed: bool) -> Row:
        image = image_name(record.file_name)
        path = self._index().get(image, self.path / "absent")
        if split == "train":
            split = assign(image, salt=self.salt, fractions={"train": 1 - self.val_fraction, "val": self.val_fraction})
        boxes = [
            RowBox(finding=finding_name(name), edges=edges, frame=FRAME)
            for name, edges in zip(record.syms, record.boxes, strict=True)
        ]
        return Row(
            where=where,
            image=image,
            path=path,
            study=image,
            person=Person(id=image),
            view=None,
            labels=_labels(record),
            boxes=tuple(boxes) if boxed else (),
            split=split,
        )


@lru_cache(maxsize=4)
def _read_list(path: Path, changed: int) -> list[Any]:
    """The records of a file; `changed`, its time of change, makes a changed file be read again."""
    records = read_json(path)
    if not isinstance(records, list) or not records:
        raise DataError(f"{path}: not a list of images")
    return records


def _name(values: Any) -> str | None:
    name = values.get("file_name") if isinstance(values, dict) else None
    return image_name(name) if isinstance(name, str) else None


def _syms(values: Any) -> list[str]:
    syms = values.get("syms") if isinstance(values, dict) else None
    return [name for name in syms if isinstance(name, str)] if isinstance(syms, list) else []


def _labels(record: _Record) -> dict[str, Certainty]:
    """All findings the archive was searched for: what has no box is absent, and a healthy image has none at all."""
    searched = FINDINGS_10 if record.polygons is None else FINDINGS_13
    labels = {finding: Certainty.ABSENT for name in searched if (finding := canonical(name)) is not None}
    for name in record.syms:
        if (finding := canonical(name) or _ALSO.get(name)) is not None:
            labels[finding] = Certainty.PRESENT
    labels[NO_FINDING] = Certainty.ABSENT if record.syms else Certainty.PRESENT
    return labels


def _with_masks(loaded: LoadedStudy, record: _Record, where: str) -> LoadedStudy | StudyFault:
    try:
        regions = tuple(_regions(record, loaded.study.images[0]))
    except DataError as error:
        return StudyFault(code="bad_box", message=f"{where}: {error}")
    return replace(loaded, study=replace(loaded.study, regions=regions))


def _regions(record: _Record, image: ImageFile) -> Iterator[Region]:
    down, across = image.rows / FRAME[0], image.columns / FRAME[1]
    for name, polygon in zip(record.syms, record.polygons or (), strict=True):
        corners = [(x * across, y * down) for x, y in polygon]
        mask = polygon_mask([corners], rows=image.rows, columns=image.columns)
        yield Region(finding=finding_name(name), image=image.id, geometry=mask)
