"""Any archive annotated in COCO's JSON: boxes, polygons and run lengths of things named by categories.

Reads one file of annotations, whose images are found at their `file_name` or, if they are not there, by name in any
folder below `images`.  COCO's JSON says nothing of persons and splits; the configuration can.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from vlp import log
from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, log_outside, places_of, units_of
from vlp.ingest.coco_file import CocoFile, CocoImage, Shapes, check_categories, drawn_in, finding_of, read_coco
from vlp.ingest.image_index import image_name, index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import fingerprint, inside
from vlp.records import Certainty, LoadedStudy, Person, Region, Split, View
from vlp.reports.findings import NO_FINDING, canonical

_logger = log.get_logger(__name__)


class CocoSource(Source):
    """Images annotated in COCO's JSON; see the module's documentation."""

    kind: Literal["coco"] = "coco"
    path: Path
    """The JSON file."""
    images: Path
    """The folder of the images."""
    source: str = "coco"
    """What the archive is called in the shards."""
    license: str = ""
    categories: dict[str, str | None] = Field(default_factory=dict)
    """Category -> finding, by any name the vocabulary knows, or null for categories that are not wanted.  What is not
    named here keeps its own name, which need not be one of the vocabulary."""
    shapes: Shapes = "masks"
    """What becomes of a thing that has an outline and a box."""
    crowds: Literal["leave_out", "keep"] = "leave_out"
    """Whether a region that covers many things at once (`iscrowd`) is kept; the finding is stated either way."""
    unannotated: Literal["unmentioned", "absent"] = "unmentioned"
    """What findings of the categories are in an image where nobody drew them: "absent" only where everything was
    looked for in every image."""
    split: Split | None = None
    """The split of all images of the file; null divides persons by hash."""
    view: View | None = None
    """What all images of the file show; null asks a DICOM header and says "other" without one."""
    person: str | None = None
    """A regular expression that finds the person in an image's file name, e.g. "p([0-9]+)_"; its first group is the
    person.  Null makes every image a person of its own: then two images of one patient can fall into different
    splits."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether an image that is not there is a fault, or is left out and counted (for a part of the archive)."""

    @model_validator(mode="after")
    def _findable(self) -> Self:
        if self.person is not None:
            try:
                groups = re.compile(self.person).groups
            except re.error as error:
                raise ValueError(f"person: not a regular expression: {error}") from None
            if groups != 1:
                raise ValueError("person: needs exactly one group, in brackets, that is the person")
        return self

    def units(self) -> Sequence[str]:
        """One unit per person: the numbers of his images in the file.

        Raises:
            DataError: if the file or its images are missing, or `categories` names one that the file does not have.
        """
        index_images.cache_clear()
        coco = read_coco(self.path)
        check_categories(coco, self.categories)
        if not coco.images:
            raise DataError(f"{self.path}: holds no image")
        if not any(self._file(image).is_file() for image in coco.images.values()):
            raise DataError(f"{self.images}: none of the images of {self.path} is there")
        if coco.strays:
            _logger.warning("%s: %d annotations are of images that the file does not name", self.path, coco.strays)
        log_outside({name: count for name, count in coco.used().items() if self._is_outside(name)})
        groups: dict[str, list[int]] = {}
        for number, (name, image) in enumerate(coco.images.items()):
            groups.setdefault(self._person(image) or f"\0{name}", []).append(number)
        return units_of(groups)

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The images of one person, each a study."""
        coco = read_coco(self.path)
        numbers = places_of(unit, len(coco.images), where=self.path)
        images = list(coco.images.items())
        for name, image in (images[number] for number in numbers):
            path = self._file(image)
            if self.absent_images == "leave_out" and not path.is_file():
                yield StudyFault(code="excluded_absent", message=f"{image.where}: the image is not there")
                continue
            person = Person(id=self._person(image) or name)
            row = Row(
                where=image.where, image=name, path=path, study=name, person=person, view=self.view, split=self.split
            )
            for item in load_studies([[row]], source=self.source, license=self.license):
                yield self._annotated(item, coco, image) if isinstance(item, LoadedStudy) else item

    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return fingerprint([self.path])

    def _file(self, image: CocoImage) -> Path:
        """Where the image lies; a place outside the folder is not looked at, only its name."""
        try:
            stated = inside(self.images, image.file_name)
        except DataError:
            stated = self.images / "absent"
        if stated.is_file():
            return stated
        return index_images(self.images).get(image_name(image.file_name), stated)

    def _is_outside(self, category: str) -> bool:
        finding = finding_of(category, self.categories)
        return finding is not None and canonical(finding) is None

    def _person(self, image: CocoImage) -> str | None:
        found = re.search(self.person, image.file_name) if self.person is not None else None
        return found[1] if found else None

    def _annotated(self, loaded: LoadedStudy, coco: CocoFile, image: CocoImage) -> LoadedStudy | StudyFault:
        file = loaded.study.images[0]
        try:
            drawn = list(drawn_in(coco, image, file, categories=self.categories, shapes=self.shapes))
        except DataError as error:
            return StudyFault(code="bad_box", message=str(error))
        kept = [each for each in drawn if self.crowds == "keep" or not each.crowd]
        regions = (Region(finding=each.finding, image=file.id, geometry=each.geometry) for each in kept)
        labels = self._labels(coco, {each.finding for each in drawn})
        return replace(loaded, study=replace(loaded.study, regions=tuple(dict.fromkeys(regions)), labels=labels))

    def _labels(self, coco: CocoFile, drawn: set[str]) -> dict[str, Certainty]:
        labels: dict[str, Certainty] = {}
        if self.unannotated == "absent":
            findings = (finding_of(name, self.categories) for name in coco.categories.values())
            labels = {known: Certainty.ABSENT for name in findings if name and (known := canonical(name)) is not None}
            labels[NO_FINDING] = Certainty.ABSENT if drawn else Certainty.PRESENT
        return labels | {known: Certainty.PRESENT for name in drawn if (known := canonical(name)) is not None}
