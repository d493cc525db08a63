import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ingest.dicom_writing import GREY, header, pydicom, uid, write
from tests.ingest.real_data import real_data
from vlp.ingest.dicom import read_dicom, read_stored
from vlp.ingest.dicom_file import open_dicom
from vlp.ingest.image_error import CLINICAL_LIMITS, ImageError

# SHA-256 of the stored values as little-endian 16-bit words, row by row, from the list that came with the files
# (dicom.jsonl); each value is derived a second time below, without our reader: from the reference pictures (by the
# relation under which the headers were made), from the bytes of the file, or by another decoder.
STORED = {
    "nih-00013751_003_mono2_8bit_explicit": "6638885f2b0bbe995588b3146a45b7ed4975431c9adc002d771d947dfafe9669",
    "nih-00013751_003_mono2_8bit_deflated": "6638885f2b0bbe995588b3146a45b7ed4975431c9adc002d771d947dfafe9669",
    "nih-00013751_003_mono1_12bit_implicit_window": "5eba4328c3b3b31f3977fe79dfdad1d509805a2c56d728e385918b7f92b88d7c",
    "nih-00001555_002_mono2_12bit_jpegls": "bd273c499a56e6c3261984a56dc740894c43b8058d7668a127837d725a338575",
    "nih-00001555_002_mono2_12bit_rle": "bd273c499a56e6c3261984a56dc740894c43b8058d7668a127837d725a338575",
    "nih-00019271_064_mono2_16bit_j2k": "cef1b74a71e6dffd464b53c6d1df3477eca4ab64b131ea91a5f29ce3884f5cdc",
    "real_cr_chest_mono1_10bit_no_part10": "400ebd95cd99725097d903597ca26d5d9cf81e339b4dcbc61a164483f0bee213",
    "reject_ct_small": "7a481f6ffff833aef4d8bd54819bd8f472aaa7232090208e056c90eacf079926",
    "reject_cr_extremity_j2k": "25559cb05640e9e9860e91adf4d49dd3469694d0ff56bbf76c8853c3e05f4cc5",
}
RELATION = {
    "nih-00013751_003_mono2_8bit_explicit": lambda reference: reference,
    "nih-00013751_003_mono2_8bit_deflated": lambda reference: reference,
    "nih-00013751_003_mono1_12bit_implicit_window": lambda reference: 4095 - reference * 16,
    "nih-00001555_002_mono2_12bit_jpegls": lambda reference: reference * 16,
    "nih-00001555_002_mono2_12bit_rle": lambda reference: reference * 16,
    "nih-00019271_064_mono2_16bit_j2k": lambda reference: reference * 257,
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return real_data("dicom")


def _reference(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "ref" / f"{name[:16]}.png")).astype(int)


@pytest.mark.real_data
@pytest.mark.parametrize("name", STORED)
def test_real_files_hold_exactly_the_expected_values(folder, name):
    values = read_stored(folder / f"{name}.dcm")
    assert hashlib.sha256(values.astype("<u2").tobytes()).hexdigest() == STORED[name]


@pytest.mark.real_data
@pytest.mark.parametrize("name", RELATION)
def test_real_values_follow_from_the_reference_pictures(folder, name):
    assert np.array_equal(read_stored(folder / f"{name}.dcm"), RELATION[name](_reference(folder, name)))


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "start", "shape"), [
    ("real_cr_chest_mono1_10bit_no_part10", -440 * 440 * 2, (440, 440)),  # the pixels end the file
    ("reject_ct_small", 6300, (128, 128)),  # the value of (7FE0,0010), found at 6,288 and 12 bytes after its tag
])  # fmt: skip
def test_real_values_are_the_bytes_of_the_file(folder, name, start, shape):
    content = (folder / f"{name}.dcm").read_bytes()[start:][: shape[0] * shape[1] * 2]
    assert np.array_equal(read_stored(folder / f"{name}.dcm"), np.frombuffer(content, "<i2").reshape(shape))


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["nih-00001555_002_mono2_12bit_jpegls", "nih-00019271_064_mono2_16bit_j2k",
                                  "nih-00019271_064_mono2_8bit_jpeg", "reject_cr_extremity_j2k"])  # fmt: skip
def test_another_decoder_finds_the_same_values(folder, name):
    theirs = pydicom.dcmread(folder / f"{name}.dcm")
    theirs.pixel_array_options(decoding_plugin="gdcm", raw=True)
    ours = read_stored(folder / f"{name}.dcm").astype(int)
    lossy_jpeg = name.endswith("8bit_jpeg")
    assert np.abs(ours - theirs.pixel_array.astype(int)).max() <= (2 if lossy_jpeg else 0)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "view", "tolerance"),
    [
        ("nih-00013751_003_mono2_8bit_explicit", "PA", 0),
        ("nih-00013751_003_mono2_8bit_deflated", "PA", 0),
        ("nih-00013751_003_mono1_12bit_implicit_window", "PA", 1),  # 16 x 255 / 4095 is not quite 1
        ("nih-00001555_002_mono2_12bit_jpegls", "PA", 1),
        ("nih-00001555_002_mono2_12bit_rle", "PA", 1),
        ("nih-00019271_064_mono2_16bit_j2k", "AP", 0),
        ("nih-00019271_064_mono2_8bit_jpeg", "AP", 12),  # lossy
    ],
)
def test_real_files_look_like_their_references(folder, name, view, tolerance):
    image = read_dicom(folder / f"{name}.dcm")
    assert np.abs(image.pixels - _reference(folder, name)).max() <= tolerance
    assert image.file.view == view
    assert image.facts.flags == ()
    assert image.facts.body_part == "CHEST"


@pytest.mark.real_data
def test_the_real_monochrome1_film_is_shown_with_bright_bone(folder):
    name = "real_cr_chest_mono1_10bit_no_part10"
    image = read_dicom(folder / f"{name}.dcm")
    # By hand: the last 387,200 bytes, the header's window of 550 and 1,024 (PS3.3 C.11.2.1.2), inverted.
    values = np.frombuffer((folder / f"{name}.dcm").read_bytes()[-387_200:], "<u2").reshape(440, 440).astype(float)
    expected = 255 * (1 - np.clip((values - 549.5) / 1023 + 0.5, 0, 1))
    assert np.abs(image.pixels - expected).max() <= 0.5 + 1e-6
    spine, lung, air = image.pixels[100:300, 205:215], image.pixels[150:250, 90:130], image.pixels[300:420, 434:]
    assert spine.mean() > lung.mean() + 50 > air.mean()
    assert (image.file.view, image.facts.sop_class) == ("PA", "Computed Radiography Image Storage")
    assert image.facts.transfer_syntax == "Implicit VR Little Endian"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("reject_ct_small", "wrong_modality", "CT Image Storage"), ("reject_cr_extremity_j2k", "not_chest", "EXTREMITY")],
)
def test_real_files_of_other_things_are_refused_by_name(folder, name, code, words):
    with pytest.raises(ImageError, match=words) as caught:
        read_dicom(folder / f"{name}.dcm")
    assert caught.value.code == code


def test_an_image_comes_with_its_file_and_facts(tmp_path):
    dataset = header(ViewPosition="AP", ImagerPixelSpacing=[0.1, 0.2], PatientSex="M", PatientAge="040Y")
    path = write(tmp_path / "one.dcm", dataset)
    image = read_dicom(str(path))
    assert (image.file.id, image.file.path, image.file.view) == ("one.dcm", path, "AP")
    assert (image.file.rows, image.file.columns) == image.pixels.shape == GREY.shape
    assert image.file.spacing_mm == (0.1, 0.2)
    assert image.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (image.facts.sex, image.facts.age, image.facts.sop_uid) == ("M", 40.0, dataset.SOPInstanceUID)


def test_flags_of_pixels_window_and_header_come_together(tmp_path):
    dataset = header(GREY | 0x8000, NumberOfFrames=0, WindowCenter=1, WindowWidth=0, ViewPosition="PA",
                     SeriesDescription="CHEST LAT", PresentationLUTShape="INVERSE")  # fmt: skip
    assert read_dicom(write(tmp_path / "a", dataset)).facts.flags == (
        "no_frame_count",
        "bits_beyond_stored",
        "unusable_window",
        "conflict:PhotometricInterpretation against PresentationLUTShape",
        "conflict:ViewPosition against SeriesDescription",
    )


def test_img_07_one_frame_of_several_is_taken_when_asked(tmp_path):
    frames = np.stack((GREY, 4095 - GREY))
    path = write(tmp_path / "a", header(frames, NumberOfFrames=2))
    first, second = (read_dicom(path, frame=number).pixels for number in range(2))
    assert np.array_equal(first, 255 - second)
    with pytest.raises(ImageError, match="2 frames"):
        read_dicom(path)


def test_img_30_thumbnails_are_refused_where_that_is_asked(tmp_path):
    path = write(tmp_path / "a", header())
    assert read_dicom(path).pixels.shape == GREY.shape
    with pytest.raises(ImageError, match="at least 224"):
        read_dicom(path, limits=CLINICAL_LIMITS)
    with pytest.raises(ImageError, match="3 times"):
        read_dicom(write(tmp_path / "b", header(GREY[:20])))


def test_img_23_a_refusal_of_size_decodes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("vlp.ingest.dicom_pixels._decoded", None)
    monkeypatch.setattr("vlp.ingest.dicom_pixels._native", None)
    path = write(tmp_path / "a", header(Rows=65_535, Columns=65_535), uid.ImplicitVRLittleEndian)
    with pytest.raises(ImageError) as caught:
        read_dicom(path)
    assert caught.value.code == "too_many_pixels"


def test_the_header_alone_says_the_same_of_an_image(tmp_path):
    path = write(tmp_path / "a", header(ViewPosition="PA"))
    assert open_dicom(path, pixels=False).header.text("ViewPosition") == "PA"
