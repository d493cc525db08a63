import struct
from pathlib import Path

import numpy as np
import pytest

from tests.ingest.dicom_writing import (
    GREY,
    compressed,
    content_of,
    encoded,
    header,
    jpeg,
    lossless_jpeg,
    pydicom,
    uid,
    write,
)
from vlp.data.encoded import MAX_PIXELS
from vlp.ingest import dicom_pixels
from vlp.ingest.dicom import read_stored
from vlp.ingest.dicom_file import open_dicom
from vlp.ingest.dicom_pixels import decoders, stored_values
from vlp.ingest.image_error import ImageError

EIGHT = (GREY >> 4).astype(np.uint8)
PLAIN = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
EXACT = (uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def _codestream(dataset, syntax: str) -> bytes:
    if syntax in (uid.JPEGLosslessSV1, uid.JPEGLossless):
        shape = (dataset.Rows, dataset.Columns)
        words = np.frombuffer(dataset.PixelData, np.uint8 if dataset.BitsAllocated == 8 else np.uint16)
        return lossless_jpeg(words[: shape[0] * shape[1]].reshape(shape), bits=dataset.BitsStored)
    return encoded(dataset, syntax)


def _refused(path: Path, code: str, **options) -> None:
    with pytest.raises(ImageError) as caught:
        read_stored(path, **options)
    assert caught.value.code == code, str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("syntax", PLAIN)
@pytest.mark.parametrize("pixels", [GREY, EIGHT, EIGHT[:7, :9]], ids=["16", "8", "odd"])
def test_plain_values_are_exact(tmp_path, syntax, pixels):
    assert np.array_equal(read_stored(write(tmp_path / "a", header(pixels), syntax)), pixels)


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("pixels", [GREY, EIGHT], ids=["12", "8"])
def test_lossless_compression_is_exact(tmp_path, syntax, pixels):
    dataset = header(pixels)
    path = compressed(tmp_path / "a", dataset, [_codestream(dataset, syntax)], syntax)
    assert np.array_equal(read_stored(path), pixels)


@pytest.mark.parametrize("name", ["MR_small_implicit", "MR_small_bigendian", "MR_small_RLE", "MR_small_jp2klossless",
                                  "MR_small_jpeg_ls_lossless", "MR_small_expb"])  # fmt: skip
def test_other_peoples_files_of_one_image_hold_the_same_signed_values(name):
    plain = SAMPLES / "MR_small.dcm"
    size = 64 * 64 * 2
    expected = np.frombuffer(plain.read_bytes()[-size - 138 :][:size], "<i2")  # 138 bytes of padding follow the pixels
    by_hand = expected.reshape(64, 64)
    assert np.array_equal(read_stored(plain), by_hand)
    assert np.array_equal(read_stored(SAMPLES / f"{name}.dcm"), by_hand)


def test_baseline_jpeg_is_what_pillow_makes_of_it(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    path = compressed(tmp_path / "a", header(smooth), [jpeg(smooth, quality=90)], uid.JPEGBaseline8Bit)
    assert np.abs(read_stored(path).astype(int) - smooth).max() <= 6


def test_fragments_are_joined(tmp_path):
    whole = encoded(header(), uid.JPEGLSLossless)
    path = compressed(tmp_path / "a", header(), [whole[:100], whole[100:200], whole[200:]], uid.JPEGLSLossless)
    assert np.array_equal(read_stored(path), GREY)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, *EXACT])
@pytest.mark.parametrize("missing", [1, 40, 700])
def test_img_01_truncated_pixels_are_refused(tmp_path, syntax, missing):
    dataset = header()
    if syntax.is_encapsulated:
        compressed(tmp_path / "a", dataset, [_codestream(dataset, syntax)], syntax)
    else:
        write(tmp_path / "a", dataset, syntax)
    content = (tmp_path / "a").read_bytes()
    end = len(content) - (8 if syntax.is_encapsulated else 0)  # the delimiter of the sequence may be missing
    (tmp_path / "a").write_bytes(content[: end - missing])
    _refused(tmp_path / "a", "truncated_pixel_data")


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_img_01_codestreams_cut_before_they_were_wrapped_are_refused(tmp_path, syntax, share):
    whole = _codestream(header(), syntax)
    path = compressed(tmp_path / "a", header(), [whole[: int(share * len(whole)) // 2 * 2]], syntax)
    with pytest.raises(ImageError) as caught:
        read_stored(path)
    assert caught.value.code in ("truncated_pixel_data", "undecodable_pixels")


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"])
def test_img_03_missing_attributes_are_named(tmp_path, keyword):
    _refused(write(tmp_path / "a", header(without=(keyword,))), f"missing_attribute:{keyword}")


def test_img_03_a_radiograph_without_pixels(tmp_path):
    _refused(write(tmp_path / "a", header(without=("PixelData",))), "no_pixel_data")


def test_img_07_several_frames_are_refused_unless_one_is_meant(tmp_path):
    frames = np.stack((GREY, GREY[::-1], GREY // 2))
    path = write(tmp_path / "a", header(frames, NumberOfFrames=3))
    _refused(path, "multi_frame")
    for number in range(3):
        assert np.array_equal(read_stored(path, frame=number), frames[number])
    for number in (-1, 3):
        _refused(path, "multi_frame", frame=number)
    streams = [encoded(header(frame), uid.RLELossless) for frame in frames]
    path = compressed(tmp_path / "b", header(NumberOfFrames=3), streams, uid.RLELossless)
    _refused(path, "multi_frame")
    assert np.array_equal(read_stored(path, frame=1), frames[1])


@pytest.mark.parametrize(("number", "flags"), [(0, ("no_frame_count",)), (1, ()), (None, ())])
def test_img_08_no_frame_count_means_one_frame(tmp_path, number, flags):
    path = write(tmp_path / "a", header(**({} if number is None else {"NumberOfFrames": number})))
    stored = stored_values(open_dicom(path), path)
    assert np.array_equal(stored.values, GREY)
    assert stored.flags == flags


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": 63},
        {"Rows": 65},
        {"Columns": 81},
        {"NumberOfFrames": 2},
        {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7},
    ],
)
def test_img_09_plain_pixels_of_another_length_are_refused(tmp_path, change):
    _refused(write(tmp_path / "a", header(**change)), "length_mismatch", frame=0)


@pytest.mark.parametrize("syntax", EXACT)
@pytest.mark.parametrize("change", [{"Rows": 63}, {"Columns": 90}])
def test_img_09_compressed_pixels_of_another_size_are_refused(tmp_path, syntax, change):
    path = compressed(tmp_path / "a", header(**change), [_codestream(header(), syntax)], syntax)
    with pytest.raises(ImageError) as caught:
        read_stored(path)
    assert caught.value.code in ("length_mismatch", "truncated_pixel_data")


def test_img_09_more_frames_than_announced_are_refused(tmp_path):
    for syntax in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless):
        streams = [encoded(header(), syntax)] * 2
        _refused(compressed(tmp_path / "a", header(), streams, syntax), "length_mismatch")


@pytest.mark.parametrize("syntax", [*PLAIN, uid.RLELossless])
@pytest.mark.parametrize(("bits", "high"), [(10, 15), (12, 13), (8, 11)])
@pytest.mark.parametrize("signed", [False, True])
def test_img_13_high_bits_and_signs(tmp_path, syntax, bits, high, signed):
    values = GREY.astype(np.int64) % (1 << bits) - (1 << (bits - 1) if signed else 0)
    rubbish = np.random.default_rng(1).integers(0, 1 << 16, GREY.shape)  # e.g. an overlay in the unused bits
    mask = ((1 << bits) - 1) << (high + 1 - bits)
    words = (((values << (high + 1 - bits)) & mask) | (rubbish & ~mask)).astype(np.uint16)
    dataset = header(words, bits=16, BitsStored=bits, HighBit=high, PixelRepresentation=int(signed))
    if syntax == uid.RLELossless:
        path = compressed(tmp_path / "a", dataset, [_rle(words)], syntax)
    else:
        path = write(tmp_path / "a", dataset, syntax)
    assert np.array_equal(read_stored(path), values)


def _rle(words: np.ndarray) -> bytes:
    """Literal runs only: a segment of high bytes, then one of low bytes."""
    planes = [plane.tobytes() for plane in ((words >> 8).astype(np.uint8), (words & 255).astype(np.uint8))]
    runs = [
        b"".join(bytes([len(part) - 1]) + part for at in range(0, len(plane), 128) if (part := plane[at : at + 128]))
        for plane in planes
    ]
    return struct.pack("<16I", 2, 64, 64 + len(runs[0]), *[0] * 13) + b"".join(runs)


def test_img_13_bits_beyond_those_stored_are_flagged(tmp_path):
    path = write(tmp_path / "a", header(GREY | 0x8000))
    assert stored_values(open_dicom(path), path).flags == ("bits_beyond_stored",)


@pytest.mark.parametrize("planar", [0, 1])
def test_img_14_grey_secondary_captures_in_colour_are_grey(tmp_path, planar):
    rgb = np.repeat(EIGHT[..., None], 3, axis=2)
    dataset = header(rgb, **(RGB | {"PlanarConfiguration": planar}))
    if planar:
        dataset.PixelData = rgb.transpose(2, 0, 1).tobytes()
    assert np.array_equal(read_stored(write(tmp_path / "a", dataset)), EIGHT)


def test_img_14_grey_in_ybr_is_grey(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    stream = jpeg(np.repeat(smooth[..., None], 3, axis=2), quality=95)
    dataset = header(np.repeat(smooth[..., None], 3, axis=2), **(RGB | {"PhotometricInterpretation": "YBR_FULL_422"}))
    path = compressed(tmp_path / "a", dataset, [stream], uid.JPEGBaseline8Bit)
    assert np.abs(read_stored(path).astype(int) - smooth).max() <= 4


@pytest.mark.parametrize("name", ["SC_rgb_small_odd", "SC_rgb_rle", "SC_rgb_jpeg_dcmtk", "examples_rgb_color"])
def test_img_14_colour_is_refused(name):
    _refused(SAMPLES / f"{name}.dcm", "colour_image", frame=0)


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_420", "ARGB"])
def test_img_15_other_photometric_interpretations_are_refused(tmp_path, photometric):
    _refused(write(tmp_path / "a", header(PhotometricInterpretation=photometric)), "unsupported_photometric")


def test_img_15_samples_that_contradict_the_interpretation(tmp_path):
    _refused(write(tmp_path / "a", header(SamplesPerPixel=3)), "unsupported_photometric")


@pytest.mark.parametrize("syntax", [*EXACT[1:], uid.JPEGBaseline8Bit])
def test_img_16_a_missing_decoder_is_named(tmp_path, monkeypatch, syntax):
    stream = jpeg(EIGHT) if syntax == uid.JPEGBaseline8Bit else _codestream(header(EIGHT), syntax)
    path = compressed(tmp_path / "a", header(EIGHT), [stream], syntax)
    read_stored(path)
    monkeypatch.setattr(dicom_pixels, "_PREFERENCE", ())
    _refused(path, f"decoder_missing:{syntax}")


def test_img_16_formats_nobody_decodes_and_twelve_bits_of_extended_jpeg(tmp_path):
    if "pylibjpeg" not in pydicom.pixels.get_decoder(uid.JPEGExtended12Bit).available_plugins:
        _refused(SAMPLES / "JPGExtended.dcm", f"decoder_missing:{uid.JPEGExtended12Bit}")
    path = compressed(tmp_path / "a", header(EIGHT), [jpeg(EIGHT)], uid.MPEG2MPML)
    _refused(path, f"decoder_missing:{uid.MPEG2MPML}")
    jpeg_xl = path.read_bytes().replace(uid.MPEG2MPML.encode(), b"1.2.840.10008.1.2.4.110")
    path.write_bytes(jpeg_xl)
    _refused(path, "unsupported_transfer_syntax:1.2.840.10008.1.2.4.110")


def test_img_16_the_decoders_are_listed(monkeypatch):
    assert all(decoders().values())
    assert set(decoders()) >= {"JPEG baseline", "JPEG lossless", "JPEG-LS", "JPEG 2000"}
    monkeypatch.setattr(dicom_pixels, "_PREFERENCE", ("pillow",))
    assert "JPEG baseline" in {name for name, plugin in decoders().items() if plugin}
    assert not decoders()["JPEG-LS"]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit])
def test_img_23_huge_images_are_refused_before_they_are_decoded(tmp_path, syntax):
    side = 65_000
    assert side * side > MAX_PIXELS
    dataset = header(Rows=side, Columns=side)
    if syntax.is_encapsulated:
        path = compressed(tmp_path / "a", dataset, [b"\xff\xd8never read"], syntax)
    else:
        path = write(tmp_path / "a", dataset)
    _refused(path, "too_many_pixels")


def test_img_23_a_codestream_larger_than_the_header_says_is_not_decoded(tmp_path, monkeypatch):
    stream = bytearray(jpeg(EIGHT))
    at = stream.index(b"\xff\xc0") + 5
    stream[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    monkeypatch.setattr(dicom_pixels, "get_decoder", None)  # which a decode would need
    _refused(compressed(tmp_path / "a", header(EIGHT), [bytes(stream)], uid.JPEGBaseline8Bit), "length_mismatch")


@pytest.mark.parametrize("shape", [{"Rows": 0}, {"Columns": 0}])
def test_img_30_no_rows_or_columns(tmp_path, shape):
    _refused(write(tmp_path / "a", header(**shape)), "bad_geometry")


@pytest.mark.parametrize("keyword", ["FloatPixelData", "DoubleFloatPixelData"])
def test_img_36_floating_point_pixels_are_refused(tmp_path, keyword):
    values = np.full(GREY.shape, np.nan, np.float32 if keyword.startswith("Float") else np.float64)
    dataset = header(without=("PixelData",))
    setattr(dataset, keyword, values.tobytes())
    (tmp_path / "a").write_bytes(content_of(dataset))
    _refused(tmp_path / "a", "unsupported_pixels")


@pytest.mark.parametrize("change", [{"BitsAllocated": 32}, {"BitsStored": 17}, {"HighBit": 16}, {"HighBit": 3}])
def test_impossible_bits_are_refused(tmp_path, change):
    _refused(write(tmp_path / "a", header(**change)), "unsupported_pixels")
