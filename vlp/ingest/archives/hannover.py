"""COVID-19 image repository of Hannover Medical School: 243 frontal images of persons with COVID-19, no reports.

Reads `data.csv` and the images by their `image_id` from any folder below (`png/<image_id>.png`).  Every image is a
study; the day of admission, which the table gives from the image's day on, puts a person's images in time.  There is
no label of what is seen: that a person has COVID-19 is a group, not a finding, unless `cohort_means` says otherwise.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from vlp.errors import DataError
from vlp.ingest.archives.rows import Row, load_studies, rows_of, sex_of, studies_in, units_of, when, years
from vlp.ingest.image_index import index_images
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.tables import Table, find_table, fingerprint, read_table
from vlp.records import Certainty, LoadedStudy, Person, View

LICENSE = "CC BY 3.0"
TABLE = "data.csv"
_COLUMNS = ("patient_id", "image_id", "sex", "age", "modality", "projection", "admission_offset")
_VIEWS: Mapping[str, View] = {"PA": "PA", "AP": "AP", "LL": "lateral", "LAT": "lateral"}


class HannoverSource(Source):
    """The repository's folder; see the module's documentation."""

    kind: Literal["hannover"] = "hannover"
    path: Path
    """The folder with `data.csv`."""
    images: Path | None = None
    """The folder with the images; null where they are below `path`."""
    modalities: tuple[str, ...] = ("CR", "DX")
    """Images of other modalities are left out."""
    cohort_means: Literal["nothing", "uncertain pneumonia"] = "nothing"
    """What the disease of the cohort says of each image: the swab was positive, the lungs may still be clear."""
    absent_images: Literal["fault", "leave_out"] = "fault"
    """Whether an image that is not there is a fault, or is left out and counted (for a part of the archive)."""

    def units(self) -> Sequence[str]:
        """One unit per person: the numbers of his rows.

        Raises:
            DataError: without the table or the images.
        """
        index_images.cache_clear()
        table = self._table()
        if self._index().keys().isdisjoint(name.strip() for name in table.columns["image_id"]):
            raise DataError(f"{table.path}: none of its images is there; name their folder with `images`")
        return units_of(table.groups("patient_id"))

    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The images of one person in the order of their days."""
        table, images = self._table(), self._index()
        kept: list[int] = []
        for index in rows_of(unit, table):
            cells = table.rows[index]
            if cells["modality"].strip().upper() not in self.modalities:
                yield StudyFault(code="excluded_modality", message=f"{table.where(index)}: of another modality")
            elif self.absent_images == "leave_out" and cells["image_id"].strip() not in images:
                yield StudyFault(code="excluded_absent", message=f"{table.where(index)}: the image is not there")
            else:
                kept.append(index)
        studies = studies_in(table, kept, study=lambda cells: cells["image_id"].strip(), read=self._row)
        yield from load_studies(studies, source="mhh-covid19", license=LICENSE)

    def fingerprint(self) -> str:
        """SHA-256 of the table."""
        return fingerprint([find_table(self.path, TABLE)])

    def _table(self) -> Table:
        return read_table(find_table(self.path, TABLE) or self.path / TABLE, columns=_COLUMNS)

    def _index(self) -> Mapping[str, Path]:
        return index_images(self.images or self.path)

    def _row(self, cells: Mapping[str, str], where: str) -> Row:
        patient, image = cells["patient_id"].strip(), cells["image_id"].strip()
        if not patient or not image:
            raise DataError("the cell of the patient or of the image is blank")
        if len(self._table().groups("image_id")[cells["image_id"]]) > 1:
            raise DataError("the same image has several rows")
        admission = when(cells["admission_offset"])
        return Row(
            where=where,
            image=image,
            path=self._index().get(image, self.path / "absent"),
            study=image,
            person=Person(
                id=patient, age=years(cells["age"]), sex=sex_of(cells["sex"]), groups={"diagnosis": "COVID-19"}
            ),
            view=_VIEWS.get(cells["projection"].strip().upper(), "other"),
            labels={} if self.cohort_means == "nothing" else {"pneumonia": Certainty.UNCERTAIN},
            # Admission on day -5 of the image is an image of the fifth day after admission.
            order=None if admission is None else -admission,
        )
