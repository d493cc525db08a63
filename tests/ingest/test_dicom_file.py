import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ingest.dicom_writing import GREY, Dataset, content_of, header, items, pydicom, uid, write
from vlp.errors import DataError
from vlp.ingest import dicom_file
from vlp.ingest.dicom import read_dicom
from vlp.ingest.dicom_file import Header, clean, open_dicom
from vlp.ingest.image_error import ImageError

PLAIN = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian)
SMALL = header(GREY[:12, :10])
WHOLE = content_of(SMALL)


def _refused(path: Path, code: str, **options) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_dicom(path, **options)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize("syntax", PLAIN)
def test_every_plain_encoding_is_read_with_and_without_preamble(tmp_path, syntax, preamble):
    file = open_dicom(write(tmp_path / "a", header(), syntax, preamble=preamble))
    assert file.syntax == syntax
    assert file.sop_class == uid.DigitalXRayImageStorageForPresentation
    assert (file.header.integer("Rows"), file.header.text("BodyPartExamined")) == (GREY.shape[0], "CHEST")
    assert file.has_pixels
    assert file.little_endian == (syntax != uid.ExplicitVRBigEndian)


def test_a_data_set_that_is_written_otherwise_than_stated_is_read_as_written(tmp_path):
    lying = content_of(header(), uid.ExplicitVRLittleEndian, preamble=False)
    honest = content_of(header(), uid.ImplicitVRLittleEndian)
    start = honest.index(b"\x08\x00\x16\x00")
    (tmp_path / "a").write_bytes(honest[:start] + lying)
    file = open_dicom(tmp_path / "a")
    assert file.header.integer("Columns") == GREY.shape[1]


def test_headers_are_read_without_the_pixels(tmp_path):
    path = write(tmp_path / "a", header())
    file = open_dicom(path, pixels=False)
    assert file.has_pixels
    assert file.header.binary("PixelData") == b""
    assert not open_dicom(write(tmp_path / "b", header(without=("PixelData",))), pixels=False).has_pixels


@pytest.mark.parametrize("length", [0, 1, 100, 131, 132])
def test_img_02_what_is_too_short_to_be_dicom(tmp_path, length):
    (tmp_path / "a").write_bytes(WHOLE[:length])
    with pytest.raises(DataError):
        read_dicom(tmp_path / "a")


def test_img_02_another_file_called_dcm_is_not_taken_for_dicom(tmp_path):
    for content in (b"<html></html>" * 40, bytes(3000), np.random.default_rng(0).bytes(3000)):
        (tmp_path / "a.dcm").write_bytes(content)
        _refused(tmp_path / "a.dcm", "not_dicom")
    (tmp_path / "a.dcm").write_bytes(b"")
    with pytest.raises(ImageError) as caught:
        read_dicom(tmp_path / "a.dcm")
    assert caught.value.code == "empty_file"


@pytest.mark.parametrize("whole", [WHOLE, content_of(SMALL, uid.ImplicitVRLittleEndian, preamble=False)])
def test_img_02_no_beginning_of_a_file_is_taken_for_the_file(tmp_path, whole):
    end_of_header = whole.index(b"\xe0\x7f\x10\x00")
    path = tmp_path / "a"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError) as caught:
            read_dicom(path)
        in_pixels = length >= end_of_header + (12 if whole is WHOLE else 8)
        assert (caught.value.code == "truncated_pixel_data") == in_pixels, length


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(132, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_damage_is_refused_or_harmless(tmp_path, changes):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    (tmp_path / "a").write_bytes(bytes(content))
    try:
        image = read_dicom(tmp_path / "a")
    except DataError:
        return  # anything but a refusal would come through and fail the test
    assert image.pixels.shape == (image.file.rows, image.file.columns)


def test_img_34_a_dicomdir_is_refused_and_not_followed(tmp_path):
    directory = header(without=("PixelData",))
    directory.SOPClassUID = uid.MediaStorageDirectoryStorage
    directory.DirectoryRecordSequence = items({"ReferencedFileID": ["ETC", "PASSWD"]})
    (tmp_path / "DICOMDIR").write_bytes(content_of(directory))
    assert "PASSWD" not in str(_refused(tmp_path / "DICOMDIR", "dicomdir"))


def test_img_35_text_is_cleaned_and_names_are_never_read(tmp_path):
    dataset = header(Manufacturer="A\0CME\x1b[31m <script>", PatientName="Doe^Jane\0", PatientID="e\u0301 7")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    facts = read_dicom(write(tmp_path / "a", dataset)).facts
    assert facts.manufacturer == "A CME [31m <script>"  # harmless to a terminal; a page escapes it
    assert facts.patient_id == "\u00e9 7"
    assert "Doe" not in repr(facts)
    assert "\u00e9 7" not in repr(facts)


@pytest.mark.parametrize("charset", ["ISO_IR 999", "nonsense", "ISO 2022 IR 87\\ISO_IR 100", "\\"])
def test_img_35_an_odd_character_set_stops_nothing(tmp_path, charset):
    content = content_of(header(Manufacturer="plain"), preamble=False)
    element = b"\x08\0\x05\0CS" + bytes([len(charset) + len(charset) % 2, 0]) + charset.encode().ljust(
        len(charset) + len(charset) % 2
    )  # fmt: skip
    (tmp_path / "a").write_bytes(element + content)
    assert read_dicom(tmp_path / "a").facts.manufacturer == "plain"


def test_img_37_private_and_unknown_transfer_syntaxes_are_refused(tmp_path):
    for syntax in ("1.2.840.113619.5.2", "1.2.3.4"):
        content = content_of(header()).replace(
            b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0")
        )  # fmt: skip
        (tmp_path / "a").write_bytes(content)
        _refused(tmp_path / "a", f"unsupported_transfer_syntax:{syntax}")


def test_img_37_a_deflated_bomb_is_not_inflated(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_file, "MAX_FILE_BYTES", 16 << 20)
    plain = content_of(header(), uid.DeflatedExplicitVRLittleEndian)
    meta = plain[: 144 + int.from_bytes(plain[140:144], "little")]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(100)) + compressor.flush()
    (tmp_path / "a").write_bytes(meta + bomb)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    _refused(tmp_path / "a", "too_many_bytes")
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()


def test_a_deflated_file_that_is_cut_or_damaged_is_refused(tmp_path):
    whole = content_of(header(), uid.DeflatedExplicitVRLittleEndian)
    (tmp_path / "a").write_bytes(whole[:-20])
    _refused(tmp_path / "a", "not_dicom")
    (tmp_path / "a").write_bytes(whole[:-60] + bytes(range(60)))
    _refused(tmp_path / "a", "not_dicom")


def test_nothing_is_said_aloud(tmp_path, recwarn, caplog):
    content = content_of(header(PatientID="secret-7", PixelSpacing=[0.125, 0.125]))
    path = tmp_path / "a"
    path.write_bytes(content.replace(b"0.125\\0.125", b"secret-7 now"[:11]))
    caplog.set_level(0)
    assert read_dicom(path).facts.spacing_mm is None
    assert not recwarn.list
    assert "secret" not in caplog.text


def test_values_that_are_none_are_missing():
    dataset = Dataset()
    with pydicom.config.disable_value_validation():
        dataset.add_new(0x00280010, "US", None)
        dataset.add_new(0x00281050, "DS", "")
        dataset.add_new(0x00101010, "AS", "\0")
    head = Header(dataset)
    assert head.integer("Rows") is None
    assert head.integer("Columns") is None
    assert head.text("PatientAge") == ""
    assert not [number for number in head.numbers("WindowCenter") if number == number]
    assert head.items("Rows") == ()


def test_clean_text_is_one_line_of_bounded_length():
    assert clean("a\r\n\tb\0c\u202e d") == "a b c d"
    assert len(clean("x" * 5000)) == 1024


def test_long_text_keeps_its_lines():
    dataset = Dataset()
    dataset.add_new(0x0040A160, "UT", "FINDINGS:\r\nClear.\0\nNo effusion.  ")
    assert Header(dataset).prose("TextValue") == "FINDINGS:\nClear.\nNo effusion."
