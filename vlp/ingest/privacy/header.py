"""What becomes of a DICOM header: the Basic Profile of PS3.15 (annex E) for radiographs, and what may reach a shard.

Two questions are answered here, both by lists of what is allowed:

* `header_action`: what whoever exports DICOM does with an attribute.  The table names what a radiograph (CR, DX) needs
  to stay readable and what has to be replaced; everything else is removed, which is stricter than the profile, and so
  are private attributes, curves and overlays.  The same holds inside sequences that are kept.
* `allowed_facts`: what of a header our importer may pass on, each value only in the form it should have.

Actions are the standard's: X remove, Z empty, D a dummy value, U another UID (the same for the same), K keep, C clean
(dates: move; words: scan and mask).
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from vlp.ingest.privacy.rules import RuleScanner

Action = Literal["X", "Z", "D", "U", "K", "C"]
Option = Literal["modified_dates", "patient_characteristics", "device", "descriptors"]
"""Options of the profile: dates moved instead of removed, age and sex kept, the machine named, descriptions cleaned."""
OPTIONS: tuple[Option, ...] = get_args(Option)
Fact = str | float | tuple[float, ...]
OLDEST_YEARS = 90.0
"""Ages above 89 become this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRule:
    """What becomes of one attribute."""

    tag: int
    keyword: str
    basic: Action
    """Under the Basic Profile."""
    options: Mapping[Option, Action]
    """Under options that say otherwise."""

    def action(self, options: Collection[Option] = ()) -> Action:
        """The action under the profile with `options`."""
        return next(
            (self.options[option] for option in OPTIONS if option in options and option in self.options), self.basic
        )


# Tag, keyword, action of the Basic Profile, then option=action.  Where the profile leaves the choice to the type of the
# attribute (X/Z, Z/D), this is the choice for CR and DX objects, which stay valid.
_TABLE = """
00020002 MediaStorageSOPClassUID K
00020003 MediaStorageSOPInstanceUID U
00020010 TransferSyntaxUID K
00080005 SpecificCharacterSet K
00080008 ImageType K
00080012 InstanceCreationDate X modified_dates=C
00080013 InstanceCreationTime X modified_dates=C
00080014 InstanceCreatorUID U
00080016 SOPClassUID K
00080018 SOPInstanceUID U
00080020 StudyDate Z modified_dates=C
00080021 SeriesDate X modified_dates=C
00080022 AcquisitionDate X modified_dates=C
00080023 ContentDate Z modified_dates=C
0008002A AcquisitionDateTime X modified_dates=C
00080030 StudyTime Z modified_dates=C
00080031 SeriesTime X modified_dates=C
00080032 AcquisitionTime X modified_dates=C
00080033 ContentTime Z modified_dates=C
00080050 AccessionNumber Z
00080060 Modality K
00080064 ConversionType K
00080068 PresentationIntentType K
00080070 Manufacturer K
00080080 InstitutionName X
00080081 InstitutionAddress X
00080082 InstitutionCodeSequence X
00080090 ReferringPhysicianName Z
00080092 ReferringPhysicianAddress X
00080094 ReferringPhysicianTelephoneNumbers X
00080096 ReferringPhysicianIdentificationSequence X
0008009C ConsultingPhysicianName Z
00080201 TimezoneOffsetFromUTC X modified_dates=C
00081010 StationName X device=K
00081030 StudyDescription X descriptors=C
0008103E SeriesDescription X descriptors=C
00081040 InstitutionalDepartmentName X
00081048 PhysiciansOfRecord X
00081050 PerformingPhysicianName X
00081060 NameOfPhysiciansReadingStudy X
00081070 OperatorsName X
00081080 AdmittingDiagnosesDescription X descriptors=C
00081084 AdmittingDiagnosesCodeSequence X descriptors=C
00081090 ManufacturerModelName K
00081110 ReferencedStudySequence Z
00081111 ReferencedPerformedProcedureStepSequence X
00081120 ReferencedPatientSequence X
00081140 ReferencedImageSequence X
00081155 ReferencedSOPInstanceUID U
00081195 TransactionUID U
00082111 DerivationDescription X descriptors=C
00082112 SourceImageSequence X
00082218 AnatomicRegionSequence K
00083010 IrradiationEventUID U
00084000 IdentifyingComments X descriptors=C
00100010 PatientName Z
00100020 PatientID Z
00100021 IssuerOfPatientID X
00100030 PatientBirthDate Z
00100032 PatientBirthTime X
00100040 PatientSex Z patient_characteristics=K
00100050 PatientInsurancePlanCodeSequence X
00101000 OtherPatientIDs X
00101001 OtherPatientNames X
00101002 OtherPatientIDsSequence X
00101005 PatientBirthName X
00101010 PatientAge X patient_characteristics=K
00101020 PatientSize X patient_characteristics=K
00101030 PatientWeight X patient_characteristics=K
00101040 PatientAddress X
00101060 PatientMotherBirthName X
00101080 MilitaryRank X
00101090 MedicalRecordLocator X
00102000 MedicalAlerts X descriptors=C
00102110 Allergies X descriptors=C
00102150 CountryOfResidence X
00102152 RegionOfResidence X
00102154 PatientTelephoneNumbers X
00102160 EthnicGroup X patient_characteristics=K
00102180 Occupation X descriptors=C
001021A0 SmokingStatus X patient_characteristics=K
001021B0 AdditionalPatientHistory X descriptors=C
001021C0 PregnancyStatus X patient_characteristics=K
001021D0 LastMenstrualDate X modified_dates=C
001021F0 PatientReligiousPreference X
00102297 ResponsiblePerson X
00104000 PatientComments X descriptors=C
00180015 BodyPartExamined K
00180060 KVP K
00181000 DeviceSerialNumber X device=K
00181002 DeviceUID U device=K
00181004 PlateID X device=K
00181005 GeneratorID X device=K
00181007 CassetteID X device=K
00181008 GantryID X device=K
00181012 DateOfSecondaryCapture X modified_dates=C
00181014 TimeOfSecondaryCapture X modified_dates=C
00181030 ProtocolName X descriptors=C
00181110 DistanceSourceToDetector K
00181111 DistanceSourceToPatient K
00181114 EstimatedRadiographicMagnificationFactor K
00181150 ExposureTime K
00181151 XRayTubeCurrent K
00181152 Exposure K
00181153 ExposureInuAs K
00181164 ImagerPixelSpacing K
00181200 DateOfLastCalibration X modified_dates=C
00181400 AcquisitionDeviceProcessingDescription X descriptors=C
00181405 RelativeXRayExposure K
00181411 ExposureIndex K
00181412 TargetExposureIndex K
00181413 DeviationIndex K
00181508 PositionerType K
00184000 AcquisitionComments X descriptors=C
00185100 PatientPosition K
00185101 ViewPosition K
00187004 DetectorType K
0018700A DetectorID X device=K
0018A003 ContributionDescription X descriptors=C
0020000D StudyInstanceUID U
0020000E SeriesInstanceUID U
00200010 StudyID Z
00200011 SeriesNumber K
00200013 InstanceNumber K
00200020 PatientOrientation K
00200052 FrameOfReferenceUID U
00200060 Laterality K
00200062 ImageLaterality K
00204000 ImageComments X descriptors=C
00280002 SamplesPerPixel K
00280004 PhotometricInterpretation K
00280006 PlanarConfiguration K
00280008 NumberOfFrames K
00280010 Rows K
00280011 Columns K
00280030 PixelSpacing K
00280034 PixelAspectRatio K
00280100 BitsAllocated K
00280101 BitsStored K
00280102 HighBit K
00280103 PixelRepresentation K
00280106 SmallestImagePixelValue K
00280107 LargestImagePixelValue K
00280120 PixelPaddingValue K
00280121 PixelPaddingRangeLimit K
00280301 BurnedInAnnotation K
00280302 RecognizableVisualFeatures K
00281040 PixelIntensityRelationship K
00281041 PixelIntensityRelationshipSign K
00281050 WindowCenter K
00281051 WindowWidth K
00281052 RescaleIntercept K
00281053 RescaleSlope K
00281054 RescaleType K
00281056 VOILUTFunction K
00282110 LossyImageCompression K
00282112 LossyImageCompressionRatio K
00282114 LossyImageCompressionMethod K
00283000 ModalityLUTSequence K
00283002 LUTDescriptor K
00283004 ModalityLUTType K
00283006 LUTData K
00283010 VOILUTSequence K
00284000 ImagePresentationComments X descriptors=C
00321032 RequestingPhysician X
00321033 RequestingService X
00321060 RequestedProcedureDescription X descriptors=C
00324000 StudyComments X descriptors=C
00380010 AdmissionID X
00380020 AdmittingDate X modified_dates=C
00380300 CurrentPatientLocation X
00380500 PatientState X patient_characteristics=C
00384000 VisitComments X descriptors=C
00400241 PerformedStationAETitle X device=K
00400242 PerformedStationName X device=K
00400244 PerformedProcedureStepStartDate X modified_dates=C
00400245 PerformedProcedureStepStartTime X modified_dates=C
00400253 PerformedProcedureStepID X
00400254 PerformedProcedureStepDescription X descriptors=C
00400275 RequestAttributesSequence X
00400280 CommentsOnThePerformedProcedureStep X descriptors=C
00400318 OrganExposed K
00400555 AcquisitionContextSequence Z
00401001 RequestedProcedureID X
00402016 PlacerOrderNumberImagingServiceRequest Z
00402017 FillerOrderNumberImagingServiceRequest Z
0040A124 UID U
00540220 ViewCodeSequence K
00880140 StorageMediaFileSetUID U
00880200 IconImageSequence X
04000561 OriginalAttributesSequence X
20500020 PresentationLUTShape K
7FE00010 PixelData K
FFFAFFFA DigitalSignaturesSequence X
"""


def _rule(line: str) -> HeaderRule:
    tag, keyword, basic, *others = line.split()
    options = dict(other.split("=") for other in others)
    return HeaderRule(tag=int(tag, 16), keyword=keyword, basic=basic, options=MappingProxyType(options))  # type: ignore[arg-type]


HEADER_POLICY: Mapping[int, HeaderRule] = MappingProxyType(
    {rule.tag: rule for rule in map(_rule, _TABLE.strip().splitlines())}
)
"""Tag (group << 16 | element) -> rule, in the order of tags."""


def header_action(tag: int, *, options: Collection[Option] = ()) -> Action:
    """What to do with the attribute `tag` (group << 16 | element) of an object that leaves the building.

    X for whatever the table does not name: unknown and private attributes, curves, overlays.
    """
    rule = HEADER_POLICY.get(tag)
    return "X" if rule is None else rule.action(options)


_CODE = (
    "Modality", "BodyPartExamined", "ViewPosition", "Laterality", "ImageLaterality", "PatientSex", "PatientPosition",
    "PhotometricInterpretation", "PresentationIntentType", "PresentationLUTShape", "PixelIntensityRelationship",
    "BurnedInAnnotation", "RecognizableVisualFeatures", "DetectorType", "PositionerType", "LossyImageCompression",
    "ConversionType", "OrganExposed",
)  # fmt: skip
_NUMBER = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "KVP", "Exposure", "ExposureInuAs", "ExposureTime",
    "XRayTubeCurrent", "DistanceSourceToDetector", "DistanceSourceToPatient", "ExposureIndex", "DeviationIndex",
    "EstimatedRadiographicMagnificationFactor", "ImagerPixelSpacing", "PixelSpacing",
)  # fmt: skip
_NAME_OF_MACHINE = ("Manufacturer", "ManufacturerModelName")
ALLOWED_FACTS: frozenset[str] = frozenset({*_CODE, *_NUMBER, *_NAME_OF_MACHINE, "PatientAge"})
"""Keywords of the attributes that may reach a shard, if their values have the form they should have."""

_CODE_FORM = re.compile(r"[A-Z0-9 _]{1,16}")
_MACHINE_FORM = re.compile(r"[\w .,()/&+-]{1,64}")
_AGE_FORM = re.compile(r"(\d{1,3})([DWMY])")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_MAX_DIGITS = 6
"""A longer run of digits in a code or the name of a machine is a number of something, perhaps of somebody."""


def allowed_facts(header: Mapping[str, Any]) -> dict[str, Fact]:
    """What of a header (keyword -> value) may reach a shard: codes, numbers, the age in years, the machine.

    Ages are at most 90, which means 90 or more.  A value that has not the form of its attribute is left out, whatever
    it is, for a field that is misused may hold a name.  Nothing that is not in `ALLOWED_FACTS` passes.
    """
    facts: dict[str, Fact] = {}
    for keyword, value in header.items():
        if keyword in ALLOWED_FACTS and (fact := _fact(keyword, value)) is not None:
            facts[keyword] = fact
    return facts


def _fact(keyword: str, value: Any) -> Fact | None:
    if keyword in _NUMBER:
        return _numbers(value)
    text = str(value).strip()
    if keyword == "PatientAge":
        age = _AGE_FORM.fullmatch(text)
        years = int(age[1]) * _YEARS[age[2]] if age else None
        return years if years is None or years < OLDEST_YEARS else OLDEST_YEARS
    if re.search(rf"\d{{{_MAX_DIGITS + 1}}}", text):
        return None
    if keyword == "PatientSex":
        return text if text in {"M", "F", "O"} else None
    form = _MACHINE_FORM if keyword in _NAME_OF_MACHINE else _CODE_FORM
    return text if form.fullmatch(text) and not RuleScanner().scan(text) else None


def _numbers(value: Any) -> float | tuple[float, ...] | None:
    """A finite number, or at most three of them."""
    several = not isinstance(value, str | bytes) and hasattr(value, "__iter__")
    try:
        numbers = tuple(float(item) for item in (value if several else (value,)))
    except (TypeError, ValueError):
        return None
    if not numbers or len(numbers) > 3 or any(abs(number) > 1e6 or number != number for number in numbers):
        return None
    return numbers if several else numbers[0]
