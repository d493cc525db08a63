"""What one study's `<key>.json` in a shard holds, and how it becomes a `Study` again.

A sample is `<key>.jpg` (the first frontal image; the first image if there is none), `<key>.view1.jpg` ... (the
others), `<key>.txt` and `<key>.json`.  The text file always exists, so that any reader of image-text tars can train
on any shard: it is the report as written, or, where a study has labels and no report, the sentences made from them.
`text_origin` says which.
"""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, ValidationError, model_validator

from vlp.config import Config
from vlp.data.encoded import MAX_PIXELS
from vlp.data.faults import shown
from vlp.errors import DataError
from vlp.records import (
    Certainty,
    ImageFile,
    Mask,
    Origin,
    Person,
    Region,
    Report,
    Sentence,
    Split,
    Study,
    View,
)

SCHEMA_VERSION: Literal[1] = 1
TextOrigin = Literal["report", "labels", "none"]
LabelsOrigin = Literal["source", "report", "none"]
"""Whether labels came with the archive or were read from the report by us."""
Count = Annotated[int, Field(ge=0)]
KEY_PATTERN = r"[A-Za-z0-9_-]{1,80}"
"""What keys are made of: no dots, at which readers of tars split names, and nothing that a path could be made of."""


class PersonJson(Config):
    """A `Person`."""

    id: str
    age: FiniteFloat | None = None
    sex: Literal["F", "M"] | None = None
    groups: dict[str, str] = Field(default_factory=dict)


class ImageJson(Config):
    """An `ImageFile` as it lies in the shard; its file path stays behind."""

    id: str
    member: str
    """What follows the key and a dot in the member's name."""
    view: View
    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    spacing_mm: tuple[FiniteFloat, FiniteFloat] | None = None
    sha256: str = ""
    """Of the file the image was read from."""


class SentenceJson(Config):
    """A `Sentence`; `start` and `end` count characters of the text file."""

    start: Count
    end: Count
    section: str
    finding: str | None = None
    certainty: Certainty
    text: str
    location: str | None = None
    severity: str | None = None
    origin: Origin = "report"


class BoxJson(Config):
    """A box (x0, y0, x1, y1) in pixels of the stored image."""

    kind: Literal["box"]
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class PointJson(Config):
    """A point (x, y) in pixels of the stored image."""

    kind: Literal["point"]
    point: tuple[FiniteFloat, FiniteFloat]


class MaskJson(Config):
    """Run lengths of a mask over the stored image, column by column, zeros first."""

    kind: Literal["mask"]
    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _covers_its_image(self) -> "MaskJson":
        # A line of text can ask for a petabyte of zeros.
        if self.rows * self.columns > MAX_PIXELS:
            raise ValueError(f"a mask of more than {MAX_PIXELS // 1_000_000} million pixels")
        if sum(self.counts) != self.rows * self.columns:
            raise ValueError("run lengths that do not cover the mask's rows and columns")
        return self


class RegionJson(Config):
    """A `Region`."""

    finding: str
    image: str
    geometry: Annotated[BoxJson | PointJson | MaskJson, Field(discriminator="kind")]


class SampleJson(Config):
    """One study as its shard describes it."""

    schema_version: Literal[1]
    key: Annotated[str, Field(pattern=rf"^{KEY_PATTERN}$")]
    study: str
    source: str
    license: str = ""
    split: Split
    synthetic: bool = False
    person: PersonJson
    images: tuple[ImageJson, ...]
    text_origin: TextOrigin
    language: str = "en"
    sentences: tuple[SentenceJson, ...] = ()
    labels: dict[str, Certainty] = Field(default_factory=dict)
    labels_origin: LabelsOrigin = "none"
    regions: tuple[RegionJson, ...] = ()
    earlier: tuple[str, ...] = ()

    def to_study(self, text: str) -> Study:
        """The study; `text` is its text file's content."""
        return Study(
            id=self.study,
            person=Person(id=self.person.id, age=self.person.age, sex=self.person.sex, groups=self.person.groups),
            images=tuple(
                ImageFile(
                    id=image.id,
                    path=None,
                    view=image.view,
                    rows=image.rows,
                    columns=image.columns,
                    spacing_mm=image.spacing_mm,
                    sha256=image.sha256,
                )
                for image in self.images
            ),
            report=Report(text=text, language=self.language) if self.text_origin == "report" else None,
            sentences=tuple(Sentence(**dict(sentence)) for sentence in self.sentences),
            labels=self.labels,
            regions=tuple(
                Region(finding=region.finding, image=region.image, geometry=_from_json(region.geometry))
                for region in self.regions
            ),
            source=self.source,
            license=self.license,
            split=self.split,
            earlier=self.earlier,
            synthetic=self.synthetic,
        )

    @classmethod
    def from_study(
        cls, study: Study, *, key: str, image_format: str, labels_origin: LabelsOrigin | None = None
    ) -> "SampleJson":
        """What a shard says of `study`, whose first image becomes `<key>.<image_format>`.

        Raises:
            DataError: if the study has no split or no image, or something in it cannot be, such as an age that is no
                number or a mask that does not cover its image.
        """
        if study.split is None or not study.images:
            raise DataError("a study without a split or without an image cannot be put into a shard")
        try:
            return cls._of(study, study.split, key=key, image_format=image_format, labels_origin=labels_origin)
        except ValidationError as error:
            raise DataError(f"a study cannot be put into a shard: {_first_fault(error)}") from None

    @classmethod
    def _of(
        cls, study: Study, split: Split, *, key: str, image_format: str, labels_origin: LabelsOrigin | None
    ) -> "SampleJson":
        person = study.person
        return cls(
            schema_version=SCHEMA_VERSION,
            key=key,
            study=study.id,
            source=study.source,
            license=study.license,
            split=split,
            synthetic=study.synthetic,
            person=PersonJson(
                id=person.id,
                age=None if person.age is None else float(person.age),
                sex=person.sex,
                groups=dict(person.groups),
            ),
            images=tuple(
                ImageJson(
                    id=image.id,
                    member=member_name(index, image_format),
                    view=image.view,
                    rows=image.rows,
                    columns=image.columns,
                    spacing_mm=image.spacing_mm,
                    sha256=image.sha256,
                )
                for index, image in enumerate(study.images)
            ),
            text_origin=text_of(study)[1],
            language=study.report.language if study.report else "en",
            sentences=tuple(_sentence_json(sentence) for sentence in study.sentences),
            labels=dict(study.labels),
            labels_origin=labels_origin or ("source" if study.labels else "none"),
            regions=tuple(
                RegionJson(finding=region.finding, image=region.image, geometry=_to_json(region))
                for region in study.regions
            ),
            earlier=study.earlier,
        )

    @classmethod
    def parse(cls, content: bytes, *, where: str) -> "SampleJson":
        """The sample `content` describes; `where` names its place in error messages.

        Raises:
            DataError: if it is not what this version of the schema asks for.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise DataError(
                f"{where}: not a sample of schema version {SCHEMA_VERSION}: {_first_fault(error)}"
            ) from None


def shard_key(study_id: str, salt: str) -> str:
    """A name for the study without dots, which readers of tars would split it at; the same for the same salt."""
    return hashlib.sha256(f"{salt}\0{study_id}".encode()).hexdigest()[:20]


def member_name(index: int, image_format: str) -> str:
    """What follows the key and a dot for the study's image number `index`."""
    return image_format if index == 0 else f"view{index}.{image_format}"


def text_of(study: Study) -> tuple[str, TextOrigin]:
    """Content of the study's text file and where it comes from."""
    if study.report is not None:
        return study.report.text, "report"
    made = " ".join(sentence.text for sentence in study.sentences if sentence.origin == "labels")
    return made, ("labels" if made else "none")


def _first_fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_input=False)[0]
    place = shown(".".join(str(part) for part in fault["loc"]))  # keys of a file whose author may be anybody
    return f"{place}: {fault['msg']}"


def _sentence_json(sentence: Sentence) -> SentenceJson:
    return SentenceJson(
        start=sentence.start,
        end=sentence.end,
        section=sentence.section,
        finding=sentence.finding,
        certainty=sentence.certainty,
        text=sentence.text,
        location=sentence.location,
        severity=sentence.severity,
        origin=sentence.origin,
    )


def _to_json(region: Region) -> BoxJson | PointJson | MaskJson:
    geometry = region.geometry
    if isinstance(geometry, Mask):
        return MaskJson(kind="mask", rows=geometry.rows, columns=geometry.columns, counts=geometry.counts)
    numbers = tuple(float(number) for number in geometry)
    if len(numbers) == 4:
        return BoxJson(kind="box", box=numbers)
    return PointJson(kind="point", point=(numbers[0], numbers[1]))


def _from_json(
    geometry: BoxJson | PointJson | MaskJson,
) -> Mask | tuple[float, float, float, float] | tuple[float, float]:
    if isinstance(geometry, MaskJson):
        return Mask(rows=geometry.rows, columns=geometry.columns, counts=geometry.counts)
    return geometry.box if isinstance(geometry, BoxJson) else geometry.point
