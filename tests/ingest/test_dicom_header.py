from pathlib import Path

import pytest

from tests.ingest.dicom_writing import CR, DX, code, header, uid, write
from vlp.ingest.dicom import read_dicom
from vlp.ingest.dicom_file import open_dicom
from vlp.ingest.dicom_header import read_facts, require_chest_radiograph
from vlp.ingest.image_error import ImageError

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")
NAMELESS = {"PatientName": "Doe^Jane", "PatientID": "secret-1", "AccessionNumber": "secret-2"}


def _open(folder: Path, **elements):
    return open_dicom(write(folder / "a", header(**elements)))


def _refusal(folder: Path, **elements) -> ImageError:
    with pytest.raises(ImageError) as caught:
        require_chest_radiograph(_open(folder, **elements), Path("a"))
    assert "\n" not in str(caught.value)
    return caught.value


def _accepts(folder: Path, **elements) -> None:
    require_chest_radiograph(_open(folder, **elements), Path("a"))


@pytest.mark.parametrize("sop_class", [CR, DX])
@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "", "OT"])
def test_radiographs_are_accepted(tmp_path, sop_class, modality):
    _accepts(tmp_path, SOPClassUID=sop_class, Modality=modality)


@pytest.mark.parametrize(
    ("sop_class", "code_", "name"),
    [
        (uid.CTImageStorage, "wrong_modality", "CT Image Storage"),
        (uid.MRImageStorage, "wrong_modality", "MR Image Storage"),
        (uid.UltrasoundImageStorage, "wrong_modality", "Ultrasound Image Storage"),
        (uid.DigitalMammographyXRayImageStorageForPresentation, "wrong_modality", "Mammography"),
        (uid.DigitalIntraOralXRayImageStorageForPresentation, "wrong_modality", "Intra-Oral"),
        (uid.PositronEmissionTomographyImageStorage, "wrong_modality", "Positron Emission"),
        (uid.XRayAngiographicImageStorage, "wrong_modality", "X-Ray Angiographic"),
        (uid.BasicTextSRStorage, "unsupported_object", "Basic Text SR Storage"),
        (uid.EncapsulatedPDFStorage, "unsupported_object", "Encapsulated PDF Storage"),
        (uid.GrayscaleSoftcopyPresentationStateStorage, "unsupported_object", "Presentation State"),
        (uid.KeyObjectSelectionDocumentStorage, "unsupported_object", "Key Object Selection"),
        (uid.SegmentationStorage, "unsupported_object", "Segmentation Storage"),
        (uid.GeneralECGWaveformStorage, "unsupported_object", "ECG Waveform"),
        (uid.DigitalXRayImageStorageForProcessing, "unsupported_object", "raw detector values"),
        ("1.2.3.4.5", "unsupported_object", "private or unknown class"),
    ],
)
def test_img_03_other_objects_are_refused_by_name_before_their_pixels(tmp_path, sop_class, code_, name):
    error = _refusal(tmp_path, SOPClassUID=sop_class, without=("PixelData", "PhotometricInterpretation"), **NAMELESS)
    assert error.code == code_
    assert name in str(error)
    assert "secret" not in str(error)


def test_img_03_a_file_that_does_not_say_what_it_is(tmp_path):
    file = _open(tmp_path, without=("SOPClassUID",))
    assert file.sop_class == DX  # the meta information still says it
    bare = open_dicom(write(tmp_path / "b", header(without=("SOPClassUID",)), preamble=False))
    with pytest.raises(ImageError) as caught:
        require_chest_radiograph(bare, Path("b"))
    assert caught.value.code == "missing_attribute:SOPClassUID"


@pytest.mark.parametrize("modality", ["CT", "MR", "US", "MG", "PX"])
def test_a_radiograph_class_of_another_modality_is_refused(tmp_path, modality):
    error = _refusal(tmp_path, Modality=modality)
    assert error.code == "wrong_modality"
    assert modality in str(error)


@pytest.mark.parametrize(
    "part", ["CHEST", "THORAX", "Chest", "PORT CHEST", "CHESTABDOMEN", "LUNG", "TORAX", "", "UNKNOWN", "OTHER"]
)
def test_chests_and_unstated_parts_are_accepted(tmp_path, part):
    _accepts(tmp_path, BodyPartExamined=part)


@pytest.mark.parametrize("part", ["HAND", "SKULL", "ABDOMEN", "TSPINE", "THORACIC SPINE", "SHOULDER", "EXTREMITY"])
def test_img_26_other_parts_of_the_body_are_refused_by_name(tmp_path, part):
    error = _refusal(tmp_path, BodyPartExamined=part)
    assert error.code == "not_chest"
    assert part in str(error)


def test_img_26_the_coded_region_counts_too(tmp_path):
    hand, chest = code("85562004", "Hand"), code("51185008", "whatever")
    error = _refusal(tmp_path, BodyPartExamined="", AnatomicRegionSequence=hand)
    assert error.code == "not_chest"
    assert "HAND" in str(error)
    _accepts(tmp_path, BodyPartExamined="", AnatomicRegionSequence=chest)
    _accepts(tmp_path, BodyPartExamined="CHEST", AnatomicRegionSequence=hand)
    facts = read_facts(_open(tmp_path, BodyPartExamined="CHEST", AnatomicRegionSequence=hand))
    assert facts.flags == ("conflict:BodyPartExamined against AnatomicRegionSequence",)


@pytest.mark.parametrize(
    ("elements", "good"),
    [
        ({"Modality": "CR"}, True),
        ({"Modality": "CR", "BodyPartExamined": ""}, True),
        ({"Modality": "OT"}, True),
        ({"Modality": "OT", "BodyPartExamined": ""}, False),
        ({"Modality": "CT"}, False),
        ({"Modality": "CR", "BodyPartExamined": "KNEE"}, False),
    ],
)
def test_img_26_secondary_captures_must_say_that_they_are_chest_radiographs(tmp_path, elements, good):
    elements = {"SOPClassUID": uid.SecondaryCaptureImageStorage, **elements}
    if good:
        _accepts(tmp_path, **elements)
    else:
        assert _refusal(tmp_path, **elements).code in ("unsupported_object", "wrong_modality", "not_chest")


def test_a_fluoroscopic_still_must_show_a_chest(tmp_path):
    still = {"SOPClassUID": uid.XRayRadiofluoroscopicImageStorage, "Modality": "RF"}
    _accepts(tmp_path, **still)
    assert _refusal(tmp_path, **still, BodyPartExamined="").code == "unsupported_object"


@pytest.mark.parametrize(
    ("elements", "years", "group"),
    [({"PatientAge": "054Y"}, 54, "adult"), ({"PatientAge": "006M"}, 0.5, "child"),
     ({"PatientAge": "003D"}, 0.008, "neonate"),
     ({"PatientAge": "002W"}, 0.038, "neonate"),
     ({"PatientBirthDate": "20000101", "StudyDate": "20200101"}, 20, "adult"),
     ({"PatientBirthDate": "20210101", "StudyDate": "20200101"}, None, None), ({"PatientAge": "old"}, None, None)],
)  # fmt: skip
def test_img_29_ages_and_their_groups(tmp_path, elements, years, group):
    facts = read_facts(_open(tmp_path, **elements))
    assert facts.age == (None if years is None else pytest.approx(years, abs=0.001))
    assert facts.age_group == group


def test_img_29_children_and_the_supine_are_accepted(tmp_path):
    path = write(tmp_path / "a", header(PatientAge="002D", ViewPosition="AP", PatientOrientation=["L", "F"]))
    image = read_dicom(path)
    assert (image.facts.age_group, image.file.view) == ("neonate", "AP")


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.1, 0.1]}, (0.2, 0.3)),
     ({"ImagerPixelSpacing": [0.1, 0.15]}, (0.1, 0.15)), ({"NominalScannedPixelSpacing": [0.5, 0.5]}, (0.5, 0.5)),
     ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.1, 0.1]}, (0.1, 0.1)),
     ({"PixelSpacing": [-1, 1]}, None), ({}, None)],
)  # fmt: skip
def test_pixel_spacing_comes_before_imager_spacing(tmp_path, elements, spacing):
    assert read_facts(_open(tmp_path, **elements)).spacing_mm == spacing


def test_facts_are_those_that_may_be_used(tmp_path):
    extra = {"PatientSex": "F", "StudyDate": "20200102", "StudyTime": "101112", "Manufacturer": "ACME",
             "ManufacturerModelName": "X1", "BurnedInAnnotation": "YES", "RecognizableVisualFeatures": "NO",
             "ReferringPhysicianName": "House^Greg", "InstitutionName": "Mercy"}  # fmt: skip
    facts = read_facts(_open(tmp_path, **NAMELESS, **extra), flags=("seen",))
    assert (facts.sex, facts.date, facts.time, facts.manufacturer, facts.model) == (
        "F", "20200102", "101112", "ACME", "X1",
    )  # fmt: skip
    assert (facts.patient_id, facts.accession) == ("secret-1", "secret-2")
    assert (facts.burned_in, facts.recognisable, facts.flags) == (True, False, ("seen",))
    assert facts.sop_class == "Digital X-Ray Image Storage - For Presentation"
    for word in ("Doe", "House", "Mercy", "secret"):
        assert word not in repr(facts)


def test_img_28_a_mirrored_image_is_flagged_and_left_as_it_is(tmp_path):
    dataset = header(ViewPosition="PA", PatientOrientation=["R", "F"])
    image = read_dicom(write(tmp_path / "a", dataset))
    plain = read_dicom(write(tmp_path / "b", header(ViewPosition="PA", PatientOrientation=["L", "F"])))
    assert "orientation:mirrored" in image.facts.flags
    assert (image.pixels == plain.pixels).all()
