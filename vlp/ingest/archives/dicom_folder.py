"""Any folder of DICOM files, e.g. the export of a PACS: grouped by patient and study by their headers; `vlp[dicom]`.

Names and folders mean nothing.  Chest radiographs become the images of their study, structured reports its text;
everything else is left out and counted.  Reports may also come from a table or from text files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from vlp import log
from vlp.config import Config
from vlp.errors import DataError
from vlp.ingest.appearance import require_chest
from vlp.ingest.image_error import CLINICAL_LIMITS, ImageError, Limits
from vlp.ingest.images import require_pydicom, tell
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import fingerprint, read_table
from vlp.records import LoadedStudy, Person, Report, Study, View

if TYPE_CHECKING:
    from vlp.ingest.dicom import DicomImage
    from vlp.ingest.dicom_header import DicomFacts
    from vlp.ingest.dicom_tree import Listing

Key = Literal["study_uid", "accession"]
"""What names a study outside of DICOM: its StudyInstanceUID, or the number its order has in the hospital."""
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_logger = log.get_logger(__name__)


class StructuredReports(Config):
    """The DICOM structured reports (SR) in the folder; of several the latest complete, verified one."""

    kind: Literal["structured"] = "structured"


class ReportTable(Config):
    """A table with one report per row."""

    kind: Literal["table"] = "table"
    path: Path
    """CSV, TSV, JSON lines or Parquet, gzipped or not."""
    key: Key = "accession"
    key_column: str
    text_column: str


class ReportFiles(Config):
    """One UTF-8 text file per study, called by its key: `<accession>.txt`."""

    kind: Literal["files"] = "files"
    path: Path
    """The folder they lie in."""
    key: Key = "accession"


class DicomFolderSource(Source):
    """A folder of DICOM files; see the module's documentation."""

    kind: Literal["dicom_folder"] = "dicom_folder"
    path: Path
    """The folder; a relative path starts where the command is run."""
    reports: Annotated[StructuredReports | ReportTable | ReportFiles, Field(discriminator="kind")] = StructuredReports()
    license: str = ""
    """What the studies may be used for; goes into every one of them."""
    unstated_frontal: Literal["PA", "AP", "other"] = "PA"
    """What a frontal image counts as whose header does not say whether it is PA or AP."""
    unstated_view: Literal["PA", "AP", "other"] = "other"
    """What an image counts as whose header says nothing of its view."""
    mirrored: Literal["fault", "keep"] = "fault"
    """Frontal images whose PatientOrientation says that they are mirrored or turned: left is language."""
    unlike_chest: Literal["fault", "keep"] = "fault"
    """Images whose pixels look inverted, turned, or like no chest (see `vlp.ingest.appearance`), whatever is stated."""
    inverted: Literal["fault", "invert"] = "fault"
    """Images whose pixels look inverted: refused, or inverted once more (and told) where `unlike_chest` is fault."""
    identifying_pixels: Literal["exclude", "keep"] = "exclude"
    """Images whose header says that something identifying is in the pixels (BurnedInAnnotation or
    RecognizableVisualFeatures YES)."""
    other_objects: Literal["exclude", "fault"] = "exclude"
    """Studies that hold no chest radiograph at all."""
    unnamed_patients: Literal["fault", "study"] = "fault"
    """Studies without PatientID; "study" makes each its own patient, which cannot keep one patient in one split."""
    min_side_px: Annotated[int, Field(ge=1)] = CLINICAL_LIMITS.min_side_px
    """Images with a shorter side are thumbnails, and faults."""

    def units(self) -> Sequence[str]:
        """One unit per group of files that share a patient, a study or an image; reads every header once."""
        require_pydicom(self.path)
        from vlp.ingest.dicom_tree import list_files, scan, state_of, unit_of

        list_files.cache_clear()  # a second call looks again
        listing = list_files(self.path)
        found = scan(self.path, state_of(listing))
        if not found.groups:
            raise DataError(f"{self.path}: no DICOM file in this folder")
        for what, counted in (
            ("DICOM files that are no chest radiographs are left out", found.left_out),
            ("headers that contradict themselves or state an unusual orientation", found.oddities),
        ):
            if counted:
                counts = ", ".join(f"{count} {name}" for name, count in sorted(counted.items()))
                _logger.info("%s: %s: %s", self.path, what, counts)
        if found.num_copies or found.num_conflicts:
            _logger.info(
                "%s: files that repeat an image: %d with the same content are passed over, %d differ",
                self.path,
                found.num_copies,
                found.num_conflicts,
            )
        if found.num_other_files:
            _logger.info("%s: %d files are no DICOM and are left out", self.path, found.num_other_files)
        return [unit_of(listing, group) for group in found.groups]

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one group of files, oldest first where their headers say when."""
        require_pydicom(self.path)
        from vlp.ingest.dicom_tree import indices_of, list_files

        listing = list_files(self.path)
        studies: dict[str, _Gathered] = {}
        owners: dict[str, int] = {}
        for index in indices_of(listing, unit):
            fault = _gather(listing, index, studies, owners)
            if fault is not None:
                yield fault
        for gathered in sorted(studies.values(), key=lambda each: each.when):
            try:
                yield from self._load_study(gathered, list(studies.values()), listing)
            except ImageError as error:
                yield StudyFault(code=error.code, message=str(error))
            except DataError as error:
                yield StudyFault(code="bad_report", message=f"{gathered.where}: {error}")

    def fingerprint(self) -> str:
        """Changes with the names, sizes and times of the files, and with the reports that lie elsewhere."""
        require_pydicom(self.path)
        from vlp.ingest.dicom_tree import list_files, state_of

        list_files.cache_clear()
        state = state_of(list_files(self.path))
        if isinstance(self.reports, ReportTable):
            state += fingerprint([self.reports.path])
        elif isinstance(self.reports, ReportFiles):
            state += state_of(list_files(self.reports.path))
        return hashlib.sha256(state.encode()).hexdigest()

    def _load_study(
        self, gathered: "_Gathered", group: Sequence["_Gathered"], listing: "Listing"
    ) -> Iterator[LoadedStudy | StudyFault]:
        refused = self._refuse(gathered)
        if refused is not None:
            yield refused
            return
        images, faults = self._images(gathered, listing)
        yield from (fault for fault in faults if not images or not fault.code.startswith("excluded"))
        if not images:
            return
        yield LoadedStudy(
            study=Study(
                id=gathered.id,
                person=_person(gathered, images[0].facts),
                images=tuple(replace(image.file, view=self._view(image.facts)) for image in images),
                report=self._report(gathered, listing),
                source=self.kind,
                license=self.license,
                earlier=tuple(other.id for other in group if other.precedes(gathered)),
            ),
            pixels=tuple(image.pixels for image in images),
        )

    def _refuse(self, gathered: "_Gathered") -> StudyFault | None:
        """The fault of a study whose headers alone rule it out."""
        where = gathered.where
        if len(gathered.patients) > 1:
            return StudyFault(code="mixed_patients", message=f"{where}: the files of this study name several patients")
        if not gathered.images and gathered.others:
            fault = gathered.others[0]
            return replace(fault, code=f"excluded_{fault.code}") if self.other_objects == "exclude" else fault
        if not gathered.images:
            return StudyFault(code="excluded_no_image", message=f"{where}: a report without an image")
        if gathered.patients == {""} and self.unnamed_patients == "fault":
            reason = "the header lacks PatientID; unnamed_patients: study takes such studies"
            return StudyFault(code="missing_attribute:PatientID", message=f"{where}: {reason}")
        return None

    def _images(self, gathered: "_Gathered", listing: "Listing") -> tuple[list["DicomImage"], list[StudyFault]]:
        """The images of a study, and what became of those that are not taken.

        The first file in the order of names owns its SOPInstanceUID: the same image in another file is passed over,
        another image under the same UID is a fault.

        Raises:
            ImageError: for an image that cannot be used; it spoils the study.
        """
        images: list[DicomImage] = []
        faults: list[StudyFault] = []
        for index, owner in gathered.images:
            where = listing.where(index)
            image = self._read(listing.path(index), where)
            if owner != index:
                first = self._read(listing.path(owner), listing.where(owner))
                same = np.array_equal(first.pixels, image.pixels)
                code = "excluded_duplicate" if same else "uid_conflict"
                reason = f"{'the same' if same else 'another'} image as file {owner + 1} has the same SOPInstanceUID"
            elif self.identifying_pixels == "exclude" and (image.facts.burned_in or image.facts.recognisable):
                code, reason = "excluded_identifying_pixels", "its header says that the pixels identify the patient"
            else:
                id_ = image.facts.sop_uid or image.file.sha256
                images.append(replace(image, file=replace(image.file, id=id_)))
                continue
            faults.append(StudyFault(code=code, message=f"{where}: {reason}"))
        return images, faults

    def _read(self, path: Path, where: str) -> "DicomImage":
        from vlp.ingest.dicom import read_dicom

        try:
            image = read_dicom(path, limits=Limits(min_side_px=self.min_side_px))
        except ImageError as error:
            raise ImageError(error.code, _without_name(error, path, where)) from None
        tell(image.facts.flags)
        orientation = image.facts.view.orientation
        if self.mirrored == "fault" and orientation in ("mirrored", "rotated"):
            reason = f"PatientOrientation says that the image is {orientation}, which makes left and right untrue"
            raise ImageError(f"orientation:{orientation}", f"{where}: {reason}")
        return image if self.unlike_chest == "keep" else self._like_a_chest(image, where)

    def _like_a_chest(self, image: "DicomImage", where: str) -> "DicomImage":
        """The image if its pixels look as they should, or can be made so."""
        frontal = image.facts.view.projection in ("PA", "AP", "frontal", None)
        try:
            require_chest(image.pixels, where, frontal=frontal)
        except ImageError as error:
            if error.code != "inverted_polarity" or self.inverted == "fault":
                raise
            tell(("inverted_by_appearance",))
            return replace(image, pixels=255 - image.pixels)
        return image

    def _view(self, facts: "DicomFacts") -> View:
        if facts.view.projection is None:
            return self.unstated_view
        return self.unstated_frontal if facts.view.projection == "frontal" else facts.view.view

    def _report(self, gathered: "_Gathered", listing: "Listing") -> Report | None:
        reports = self.reports
        if isinstance(reports, StructuredReports):
            text = _structured(gathered, listing)
        else:
            keys = {gathered.id} if reports.key == "study_uid" else gathered.accessions - {""}
            found = (
                _from_table(reports, key) if isinstance(reports, ReportTable) else _from_files(reports, key)
                for key in sorted(keys)
            )
            texts = {text for each in found for text in each if text.strip()}
            if len(texts) > 1:
                raise DataError("several reports with different texts")
            text = next(iter(texts), "")
        return Report(text=text) if text.strip() else None


@dataclass(slots=True, kw_only=True)
class _Gathered:
    """What the headers of a study's files say, before any pixel is read."""

    id: str
    where: str
    when: str = ""
    patients: set[str] = field(default_factory=set)
    accessions: set[str] = field(default_factory=set)
    images: list[tuple[int, int]] = field(default_factory=list)
    """The index of each file, and of the first file with the same SOPInstanceUID."""
    reports: list[int] = field(default_factory=list)
    others: list[StudyFault] = field(default_factory=list)

    def precedes(self, other: "_Gathered") -> bool:
        """Whether this is an earlier study of the same person."""
        return bool(self.images) and "" < self.when < other.when and self.patients == other.patients != {""}


def _gather(listing: "Listing", index: int, studies: dict[str, _Gathered], owners: dict[str, int]) -> StudyFault | None:
    """Puts a file to its study by its header; a damaged one belongs to none and is a fault of its own."""
    from vlp.ingest.dicom_file import quiet
    from vlp.ingest.dicom_reports import is_report
    from vlp.ingest.dicom_tree import not_wanted, read_header

    path, where = listing.path(index), listing.where(index)
    with quiet():
        file = read_header(path)
        if file is None:
            return StudyFault(code="not_dicom", message=f"{where}: no DICOM file")
        if isinstance(file, ImageError):
            return StudyFault(code=file.code, message=_without_name(file, path, where))
        header = file.header
        id_ = header.text("StudyInstanceUID") or header.text("SOPInstanceUID") or listing.names[index]
        study = studies.setdefault(id_, _Gathered(id=id_, where=where))
        study.patients.add(header.text("PatientID"))
        study.accessions.add(header.text("AccessionNumber"))
        study.when = study.when or header.text("StudyDate") + header.text("StudyTime")
        why = not_wanted(file, path)
        if why is not None:
            study.others.append(StudyFault(code=why.code, message=_without_name(why, path, where)))
        elif is_report(file):
            study.reports.append(index)
        else:
            uid = header.text("SOPInstanceUID")
            study.images.append((index, owners.setdefault(uid, index) if uid else index))
    return None


def _without_name(error: ImageError, path: Path, where: str) -> str:
    """The message without the file's name, which may say whose it is."""
    return f"{where}: {str(error).removeprefix(f'{path}: ')}"


def _person(gathered: _Gathered, facts: "DicomFacts") -> Person:
    groups = {"scanner": " ".join(filter(None, (facts.manufacturer, facts.model)))}
    if facts.age_group is not None:
        groups["age group"] = facts.age_group
    return Person(
        id=next(iter(gathered.patients)) or f"study {gathered.id}",
        age=facts.age,
        sex=facts.sex,
        groups={name: value for name, value in groups.items() if value},
    )


def _structured(gathered: _Gathered, listing: "Listing") -> str:
    from vlp.ingest.dicom_file import open_dicom, quiet
    from vlp.ingest.dicom_reports import latest, report_text

    with quiet():
        try:
            paths = [listing.path(index) for index in gathered.reports]
            file = latest([(path, open_dicom(path)) for path in paths])
        except ImageError:
            raise DataError("its structured report is damaged") from None
        return "" if file is None else report_text(file)


def _from_table(reports: ReportTable, key: str) -> Iterator[str]:
    table = read_table(reports.path, columns=(reports.key_column, reports.text_column))
    for index in table.groups(reports.key_column).get(key, ()):
        yield table.columns[reports.text_column][index]


def _from_files(reports: ReportFiles, key: str) -> Iterator[str]:
    if not set(key) <= _SAFE or key.startswith("."):
        return  # no such name can be a file of the folder
    path = reports.path / f"{key}.txt"
    try:
        yield path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError):
        raise DataError("its report is no readable UTF-8 text file") from None
