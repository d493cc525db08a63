"""Open-I, the Indiana University chest X-ray collection: 3,955 reports with their images and MeSH codes.

Three layouts of the same collection are read: the original (`ecgen-radiology/<n>.xml`), Kaggle's
(`indiana_reports.csv`, `indiana_projections.csv`) and that of R2Gen (`annotation.json`, with its split).  Images (PNG
or DICOM) are found by name in any folder below.  The collection does not say whose reports these are, so every report
is a person of its own.  What an image shows is known from Kaggle's `indiana_projections.csv` alone: it is used beside
the reports of any layout.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.mesh import labels_of
from vlp.ingest.archives.open_i_reports import (
    PROJECTIONS,
    Entry,
    Layout,
    Picture,
    Reports,
    bare_name,
    find_reports,
    projection_table,
)
from vlp.ingest.archives.rows import Row, load_studies
from vlp.ingest.image_index import image_name, index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, inside
from vlp.records import LoadedStudy, Person, Report, View

_LATERAL = re.compile(r"\b(lat|lateral)\b", re.IGNORECASE)
_FRONTAL = re.compile(r"\b(pa|ap|frontal|portable|posteroanterior|anteroposterior)\b", re.IGNORECASE)
_AP = re.compile(r"\b(ap|portable|anteroposterior)\b", re.IGNORECASE)
_logger = log.get_logger(__name__)


class OpenISource(Source):
    """The Indiana University collection; see the module's documentation."""

    kind: Literal["open_i"] = "open_i"
    path: Path
    """The folder with the reports."""
    layout: Layout | None = None
    """How the reports are stored; null takes the one layout that is there."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    projections: Path | None = None
    """Kaggle's table of views; null looks for it in `path`."""
    unstated_views: Literal["order", "other"] = "order"
    """What images count as that no table and no caption of their own tells apart: by their order, the first of two PA
    and the second lateral (right for 89 of 100 pairs of the real collection) and all others "other"; or all "other"."""
    codes: Literal["major", "all", "none"] = "major"
    """Which MeSH codes become labels: those given by people, those of a program too, or none."""
    unnamed: Literal["absent", "unmentioned"] = "absent"
    """What the 14 findings of ChestX-ray14 are where no code states them."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether an image that is not there is a fault of its report, or is left out (for a part of the collection)."""

    def units(self) -> Sequence[str]:
        """One unit per report.

        Raises:
            DataError: without reports or images, or if the layout cannot be told.
        """
        index_images.cache_clear()
        _bare_index.cache_clear()
        reports = self._reports()
        if reports.images_by_name and not self._index():
            raise DataError(f"{self.images or self.path}: holds no image; name their folder with `images`")
        if self._projections() is None:
            _logger.warning(
                "%s: there is no %s; what the images show is told by their order (%s)",
                self.path, PROJECTIONS, self.unstated_views,
            )  # fmt: skip
        return reports.units()

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The one report of a unit, with its images."""
        try:
            entry = self._reports().entry(unit)
            rows = self._rows(entry)
        except DataError as error:
            yield StudyFault(code="bad_row", message=str(error))
            return
        if isinstance(rows, StudyFault):
            yield rows
        else:
            for item in load_studies([rows], source="open-i", license=entry.license):
                yield self._with_guesses(item, entry) if isinstance(item, LoadedStudy) else item

    def fingerprint(self) -> str:
        """SHA-256 over the reports and the table of views."""
        views = self.projections or find_table(self.path, PROJECTIONS)
        return fingerprint([*self._reports().files(), views])

    def _reports(self) -> Reports:
        return find_reports(self.path, self.layout)

    def _index(self) -> Mapping[str, Path]:
        return _bare_index(self.images or self.path)

    def _projections(self) -> Table | None:
        path = self.projections or find_table(self.path, PROJECTIONS)
        return None if path is None else projection_table(path)

    def _rows(self, entry: Entry) -> list[Row] | StudyFault:
        if not entry.pictures:
            return StudyFault(code="excluded_no_image", message=f"{entry.where}: the report names no image")
        views = self._views(entry.pictures)
        files = [self._file(picture) for picture in entry.pictures]
        known = [place for place, file in enumerate(files) if self.absent_images == "fault" or file.is_file()]
        if not known:
            return StudyFault(code="excluded_absent", message=f"{entry.where}: none of its images is there")
        codes = {"major": entry.codes, "all": (*entry.codes, *entry.automatic), "none": ()}[self.codes]
        labels = labels_of(codes, unnamed=self.unnamed)
        return [
            Row(
                where=entry.where,
                image=entry.pictures[place].name,
                path=files[place],
                study=entry.id,
                person=Person(id=entry.person or entry.id),
                view=views[place],
                report=Report(text=entry.text) if entry.text.strip() else None,
                labels=labels,
                split=entry.split,
            )
            for place in known
        ]

    def _file(self, picture: Picture) -> Path:
        if picture.file is None:
            return self._index().get(bare_name(picture.name), self.path / "absent")
        folder = self.images or self.path / "images"
        return inside(folder, picture.file)

    def _views(self, pictures: Sequence[Picture]) -> list[View | None]:
        """What each image shows, by the table or by a caption of its own; None where neither says it."""
        table = _projections_of(pictures, self._projections())
        own_captions = len({picture.caption for picture in pictures}) > 1
        views: list[View | None] = []
        for picture in pictures:
            said = table.get(bare_name(picture.name), "").strip().lower()
            if own_captions and not said:
                said = _said(picture.caption)
            views.append({"frontal": _frontal(picture), "lateral": "lateral"}.get(said))
        return views

    def _with_guesses(self, loaded: LoadedStudy, entry: Entry) -> LoadedStudy:
        """The first of two images is taken for frontal, where nothing else said what they show."""
        pictures = entry.pictures
        unstated = all(image.view == "other" for image in loaded.study.images)
        if self.unstated_views == "other" or len(pictures) != 2 or not unstated:
            return loaded
        guesses: dict[str, View] = {pictures[0].name: _frontal(pictures[0]), pictures[1].name: "lateral"}
        images = tuple(replace(image, view=guesses[image.id]) for image in loaded.study.images)
        return replace(loaded, study=replace(loaded.study, images=images))


def _frontal(picture: Picture) -> View:
    return "AP" if _AP.search(picture.caption) else "PA"


def _said(caption: str) -> str:
    """The one view a caption names; "" if it names none or several."""
    lateral, frontal = _LATERAL.search(caption), _FRONTAL.search(caption)
    if bool(lateral) == bool(frontal):
        return ""
    return "lateral" if lateral else "frontal"


def _projections_of(pictures: Sequence[Picture], table: Table | None) -> Mapping[str, str]:
    """Bare name -> projection, of the rows that may be about these images."""
    if table is None:
        return {}
    numbers = {bare_name(picture.name).partition("_")[0] for picture in pictures}
    rows = [table.rows[row] for number in numbers for row in table.groups("uid").get(number, ())]
    return {bare_name(image_name(row["filename"])): row["projection"] for row in rows}


@lru_cache(maxsize=4)
def _bare_index(folder: Path) -> Mapping[str, Path]:
    """The images of a folder by the part of their names that all layouts share."""
    return MappingProxyType({bare_name(name): path for name, path in index_images(folder).items()})
