"""The phantom archive: patients, pictures and reports made on demand, with everything about them known."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from vlp.errors import DataError
from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.prose import write_report
from vlp.ingest.phantom.rendering import RenderedStudy, render
from vlp.ingest.phantom.truth import FINDINGS, StudyTruth
from vlp.ingest.source import LUNGS, Source
from vlp.records import Certainty, ImageFile, LoadedStudy, Mask, Person, Region, Report, Study

LICENSE = "Apache-2.0 (generated)"

_PATIENTS_PER_UNIT = 8


class PhantomSource(Source):
    """A procedural archive of chest radiographs.  Synthetic: no person, no hospital.

    A study is a function of the seed, the patient's number and the settings alone, so a larger archive begins with
    exactly the patients of a smaller one.
    """

    synthetic: ClassVar[bool] = True

    kind: Literal["phantom"] = "phantom"
    patients: int = Field(default=900, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0)
    size_px: int = Field(default=256, ge=64, le=2048)
    """Rows and columns of every image."""
    anatomy: bool = False
    """Whether the lung fields, fluid and free air included, are regions too; they are called "lungs"."""
    history: HistoryConfig = HistoryConfig()

    def units(self) -> Sequence[str]:
        """Ranges of patients, e.g. "000008-000015"."""
        starts = range(0, self.patients, _PATIENTS_PER_UNIT)
        return [f"{start:06d}-{min(start + _PATIENTS_PER_UNIT, self.patients) - 1:06d}" for start in starts]

    def load(self, unit: str) -> Iterator[LoadedStudy]:
        """The studies of one range of patients, each patient's oldest first.

        Raises:
            DataError: if `unit` is not one of `units()`.
        """
        first, dash, last = unit.partition("-")
        if not (dash and first.isdecimal() and last.isdecimal() and int(first) <= int(last) < self.patients):
            raise DataError(f"phantom: {unit!r} is not a range of this archive's {self.patients} patients")
        for index in range(int(first), int(last) + 1):
            earlier: tuple[str, ...] = ()
            for truth in person(index, seed=self.seed, settings=self.history):
                rendered = render(truth, size_px=self.size_px)
                yield _study(truth, rendered, earlier=earlier, anatomy=self.anatomy)
                earlier = (*earlier, truth.id)


def _study(truth: StudyTruth, rendered: RenderedStudy, *, earlier: tuple[str, ...], anatomy: bool) -> LoadedStudy:
    images = tuple(
        ImageFile(
            id=f"{truth.id}-{view.view.lower()}",
            path=None,
            view=view.view,
            rows=view.pixels.shape[0],
            columns=view.pixels.shape[1],
            spacing_mm=(view.spacing_mm, view.spacing_mm),
        )
        for view in rendered.views
    )
    regions = tuple(
        Region(finding=truth.findings[index].name, image=image.id, geometry=Mask.encode(mask))
        for image, view in zip(images, rendered.views, strict=True)
        for index, mask in sorted(view.masks.items())
        if mask.any()
    )
    if anatomy:
        regions += tuple(
            Region(finding=LUNGS, image=image.id, geometry=Mask.encode(view.lungs["left"] | view.lungs["right"]))
            for image, view in zip(images, rendered.views, strict=True)
        )
    study = Study(
        id=truth.id,
        person=Person(
            id=truth.person,
            age=round(truth.body.age, 1),
            sex=truth.body.sex,
            groups={"site": truth.exposure.site, "scanner": f"scanner {truth.exposure.scanner}"},
        ),
        images=images,
        report=Report(text=write_report(truth)),
        labels=labels(truth),
        regions=regions,
        source="phantom",
        license=LICENSE,
        earlier=earlier,
        synthetic=True,
    )
    return LoadedStudy(study=study, pixels=tuple(view.pixels for view in rendered.views))


def labels(truth: StudyTruth) -> Mapping[str, Certainty]:
    """Presence or absence of every finding."""
    present = {place.name for place in truth.findings}
    return {name: Certainty.PRESENT if name in present else Certainty.ABSENT for name in FINDINGS}
