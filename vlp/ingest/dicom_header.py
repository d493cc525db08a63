"""What a DICOM header decides before any pixel is touched: whether this is a chest radiograph, and the facts used.

Nothing that names a person is read.  Identifiers that are read (`DicomFacts.patient_id` and the UIDs) are for
grouping; they leave this package only through the pseudonyms of `vlp.ingest.privacy`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Literal

from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    DigitalXRayImageStorageForProcessing,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from vlp.ingest.dicom_file import DicomFile, Header, clean
from vlp.ingest.dicom_view import ViewFacts, view_facts
from vlp.ingest.image_error import ImageError

_RADIOGRAPHS = frozenset({ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation})
_COPIES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        XRayRadiofluoroscopicImageStorage,
    }
)
"""Classes that hold chest radiographs among other things; the header must say that this is one."""
_RADIOGRAPHIC = frozenset({"CR", "DX", "RG", "DR", "XR"})
_UNSPECIFIC = frozenset({"", "OT", "SC", "RF"})
_UNSTATED = frozenset({"", "UNKNOWN", "OTHER", "NONE", "NA", "UNDEFINED", "UNSPECIFIED", "DEFAULT", "GENERAL"})
_CHEST = re.compile(r"CHEST|THORAX|THORAC|TORAX|TORACE|LUNG|PULMO|POUMON|BRUST")
_NOT_CHEST = re.compile(r"SPINE|VERTEBR|COLUMN")
"""Thoracic spine is not thorax."""
_CHEST_CODES = frozenset(
    {"816094009", "51185008", "39607008", "43799004", "416550000", "416775004"}
    | {"T-D3000", "T-28000", "T-D3200", "R-FAB55", "R-FAB56"}
)
_YEARS: Mapping[str, float] = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_DAYS_A_YEAR = 365.25
_CHILD_BELOW_YEARS, _NEONATE_BELOW_YEARS = 18.0, 28 / 365.25

AgeGroup = Literal["neonate", "child", "adult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomFacts:
    """What is used of a header.  Text is clean; what the header does not say is "" or None."""

    sop_class: str
    """Name of the class, e.g. "Digital X-Ray Image Storage - For Presentation"."""
    modality: str
    transfer_syntax: str
    study_uid: str
    series_uid: str
    sop_uid: str
    patient_id: str = field(repr=False)
    accession: str = field(repr=False)
    sex: Literal["F", "M"] | None
    age: float | None
    """Years."""
    date: str
    """Of the study, YYYYMMDD."""
    time: str
    body_part: str
    manufacturer: str
    model: str
    view: ViewFacts
    spacing_mm: tuple[float, float] | None
    """(row, column); PixelSpacing, which may be calibrated, before ImagerPixelSpacing."""
    burned_in: bool | None
    """What BurnedInAnnotation says of writing in the pixels."""
    recognisable: bool | None
    """What RecognizableVisualFeatures says of a face or the like in the pixels."""
    flags: tuple[str, ...] = ()
    """Odd things that were put up with, by short names that identify nobody, e.g. "unusable_window"."""

    @property
    def age_group(self) -> AgeGroup | None:
        """Neonates and children are accepted; the group lets results be reported apart."""
        if self.age is None:
            return None
        if self.age < _NEONATE_BELOW_YEARS:
            return "neonate"
        return "child" if self.age < _CHILD_BELOW_YEARS else "adult"


def require_chest_radiograph(file: DicomFile, path: Path) -> None:
    """Passes a file that may hold a chest radiograph, by class, modality and body part.

    Accepted: Computed Radiography, Digital X-Ray for presentation, and, if they say that they show a chest or were
    a radiograph, grey Secondary Captures and radiofluoroscopic stills.  Raw detector values (for processing) are not.

    Raises:
        ImageError: "unsupported_object", "wrong_modality", "not_chest" or "missing_attribute:SOPClassUID", naming the
            class, modality or body part.
    """
    sop_class, header = file.sop_class, file.header
    if not sop_class:
        raise ImageError("missing_attribute:SOPClassUID", f"{path}: a DICOM file that does not say what it is")
    if sop_class not in _RADIOGRAPHS | _COPIES:
        code = "wrong_modality" if _is_image(sop_class) else "unsupported_object"
        raise ImageError(code, f"{path}: {_class_name(sop_class)}, which is no chest radiograph")
    _check_modality(sop_class, header, path)
    region = _stated_region(header)
    if region and not is_chest(header):
        raise ImageError("not_chest", f"{path}: a radiograph of another part of the body: {region}")


def _is_image(sop_class: UID) -> bool:
    return "Image" in sop_class.name and sop_class != DigitalXRayImageStorageForProcessing


def _class_name(sop_class: UID) -> str:
    if sop_class.name == sop_class:  # pydicom knows no name for it
        return "an object of a private or unknown class"
    if sop_class == DigitalXRayImageStorageForProcessing:
        return f"{sop_class.name} (raw detector values; export the image for presentation)"
    return sop_class.name


def _check_modality(sop_class: UID, header: Header, path: Path) -> None:
    modality = header.text("Modality").upper()
    if modality in _RADIOGRAPHIC or (modality in _UNSPECIFIC and sop_class in _RADIOGRAPHS):
        return
    if modality not in _UNSPECIFIC:
        letters = re.sub(r"[^A-Z]", "", modality)[:16]
        raise ImageError("wrong_modality", f"{path}: {sop_class.name} of modality {letters}, no radiograph")
    if not is_chest(header):
        raise ImageError("unsupported_object", f"{path}: {sop_class.name} that does not say it shows a chest")


def is_chest(header: Header) -> bool:
    """Whether the header says that the chest is shown."""
    return any(_names_chest(text) for text in _regions(header)) or any(
        item.text("CodeValue") in _CHEST_CODES for item in header.items("AnatomicRegionSequence")
    )


def _names_chest(text: str) -> bool:
    return bool(_CHEST.search(text)) and not _NOT_CHEST.search(text)


def _regions(header: Header) -> tuple[str, ...]:
    coded = (item.text("CodeMeaning") for item in header.items("AnatomicRegionSequence"))
    return tuple(text.upper() for text in (header.text("BodyPartExamined"), *coded))


def _stated_region(header: Header) -> str:
    """What to call the part of the body in a message: at most 32 letters of the first statement."""
    letters = (re.sub(r"[^A-Z ]", "", text).strip() for text in _regions(header))
    return next((text[:32] for text in letters if text not in _UNSTATED), "")


def header_oddities(header: Header) -> tuple[str, ...]:
    """Contradictions and unusual orientations, e.g. "conflict:ViewPosition against PatientOrientation"; no values."""
    view = view_facts(header)
    oddities = [f"conflict:{conflict}" for conflict in view.conflicts]
    if len({_names_chest(text) for text in _regions(header) if text not in _UNSTATED}) > 1:
        oddities.append("conflict:BodyPartExamined against AnatomicRegionSequence")
    if view.orientation in ("mirrored", "rotated"):
        oddities.append(f"orientation:{view.orientation}")
    return tuple(oddities)


def read_facts(file: DicomFile, *, flags: tuple[str, ...] = ()) -> DicomFacts:
    """What is used of the header of `file`; `flags` are those the pixels gave rise to."""
    header = file.header
    return DicomFacts(
        sop_class=clean(file.sop_class.name),
        modality=header.text("Modality").upper(),
        transfer_syntax=clean(file.syntax.name),
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        sop_uid=header.text("SOPInstanceUID"),
        patient_id=header.text("PatientID"),
        accession=header.text("AccessionNumber"),
        sex="F" if header.text("PatientSex") == "F" else "M" if header.text("PatientSex") == "M" else None,
        age=_age(header),
        date=header.text("StudyDate"),
        time=header.text("StudyTime"),
        body_part=header.text("BodyPartExamined"),
        manufacturer=header.text("Manufacturer"),
        model=header.text("ManufacturerModelName"),
        view=view_facts(header),
        spacing_mm=_spacing(header),
        burned_in=_yes_no(header.text("BurnedInAnnotation")),
        recognisable=_yes_no(header.text("RecognizableVisualFeatures")),
        flags=(*flags, *header_oddities(header)),
    )


def _yes_no(text: str) -> bool | None:
    return {"YES": True, "NO": False}.get(text.upper())


def _spacing(header: Header) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        numbers = header.numbers(keyword)
        if len(numbers) == 2 and all(0.0 < number < float("inf") for number in numbers):
            return numbers[0], numbers[1]
    return None


def _age(header: Header) -> float | None:
    """PatientAge, else the time between birth and study."""
    text = header.text("PatientAge").upper()
    if re.fullmatch(r"\d{1,3}[YMWD]", text):
        return int(text[:-1]) * _YEARS[text[-1]]
    born, taken = _day(header.text("PatientBirthDate")), _day(header.text("StudyDate"))
    if born is None or taken is None or taken < born:
        return None
    return (taken - born).days / _DAYS_A_YEAR


def _day(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if re.fullmatch(r"\d{8}", text) else None
    except ValueError:
        return None
