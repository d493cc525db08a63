from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ingest.dicom_writing import GREY, header, items, pydicom, uid, write
from vlp.ingest.dicom import read_dicom
from vlp.ingest.image_error import ImageError

FULL = np.arange(4096, dtype=np.uint16).reshape(64, 64)
"""Every value of twelve bits, once."""


def _display(folder: Path, dataset, syntax=uid.ExplicitVRLittleEndian):
    image = read_dicom(write(folder / "a", dataset, syntax))
    return image.pixels, image.facts.flags


def _refused(folder: Path, dataset, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        _display(folder, dataset)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def _rounded(shares: np.ndarray) -> np.ndarray:
    """Halves go up, also where the last bit of a quotient puts them just below."""
    return np.floor(np.clip(shares, 0, 1) * 255 + 0.5 + 1e-7).astype(np.uint8)


def _lut(first: int, entries: list[int], bits: int, *, count: int | None = None, data=None) -> dict:
    item = {"LUTDescriptor": [len(entries) if count is None else count, first, bits]}
    item["LUTData"] = np.asarray(entries, "<u2").tobytes() if data is None else data
    return item


def test_a_linear_window_is_the_standards_formula(tmp_path):
    pixels, flags = _display(tmp_path, header(FULL, WindowCenter=1500, WindowWidth=900))
    expected = []
    for x in FULL.ravel().tolist():  # PS3.3 C.11.2.1.2.1, word for word
        if x <= 1500 - 0.5 - (900 - 1) / 2:
            expected.append(0.0)
        elif x > 1500 - 0.5 + (900 - 1) / 2:
            expected.append(1.0)
        else:
            expected.append((x - (1500 - 0.5)) / (900 - 1) + 0.5)
    assert np.array_equal(pixels.ravel(), _rounded(np.array(expected)))
    assert flags == ()


def test_exact_and_sigmoid_windows(tmp_path):
    window = {"WindowCenter": 1500, "WindowWidth": 900}
    pixels, _ = _display(tmp_path, header(FULL, **window, VOILUTFunction="LINEAR_EXACT"))
    assert np.array_equal(pixels, _rounded((FULL - 1500.0) / 900 + 0.5))
    pixels, _ = _display(tmp_path, header(FULL, **window, VOILUTFunction="SIGMOID"))
    assert np.array_equal(pixels, _rounded(1 / (1 + np.exp(-4 * (FULL - 1500.0) / 900))))


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_agree_with_pydicoms_own(tmp_path, function):
    dataset = header(FULL, WindowCenter=2100, WindowWidth=1700, VOILUTFunction=function, RescaleSlope=2,
                     RescaleIntercept=-300, RescaleType="US")  # fmt: skip
    pixels, _ = _display(tmp_path, dataset)
    units = pydicom.pixels.apply_modality_lut(FULL, dataset)
    theirs = pydicom.pixels.apply_windowing(units, dataset)
    low, high = -300, 2 * 4095 - 300
    assert np.abs(pixels.astype(int) - (theirs.astype(float) - low) / (high - low) * 255).max() <= 0.6


def test_modality_comes_before_the_window(tmp_path):
    window = {"WindowCenter": 100, "WindowWidth": 200, "VOILUTFunction": "LINEAR_EXACT"}
    pixels, _ = _display(tmp_path, header(FULL, **window, RescaleSlope=0.5, RescaleIntercept=-700))
    assert np.array_equal(pixels, _rounded((FULL * 0.5 - 700 - 100) / 200 + 0.5))


def test_a_modality_lut_replaces_slope_and_intercept(tmp_path):
    curve = [round(4095 * (value / 4095) ** 2) for value in range(4096)]
    dataset = header(FULL, ModalityLUTSequence=items(_lut(0, curve, 12)), RescaleSlope=0.1, RescaleIntercept=5)
    pixels, _ = _display(tmp_path, dataset)
    assert np.array_equal(pixels, _rounded(np.array(curve)[FULL] / 4095))


def test_img_04_one_image_in_both_polarities_is_the_same_image(tmp_path):
    for window, mirror in (
        ({}, {}),
        ({"WindowCenter": 1500, "WindowWidth": 900}, {"WindowCenter": 4095 - 1500 + 1, "WindowWidth": 900}),
        ({"WindowCenter": 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"},
         {"WindowCenter": 4095 - 1500, "WindowWidth": 900, "VOILUTFunction": "SIGMOID"}),
    ):  # fmt: skip
        for values in (FULL, GREY, (GREY // 5 + 1000).astype(np.uint16)):
            two, _ = _display(tmp_path, header(values, **window))
            one, _ = _display(tmp_path, header(4095 - values, PhotometricInterpretation="MONOCHROME1", **mirror))
            assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("photometric", "shape", "disputed"),
    [("MONOCHROME1", "INVERSE", False), ("MONOCHROME1", "IDENTITY", True), ("MONOCHROME2", "IDENTITY", False),
     ("MONOCHROME2", "INVERSE", True)],
)  # fmt: skip
def test_img_05_the_photometric_interpretation_wins(tmp_path, photometric, shape, disputed):
    values = FULL[:, ::-1] // 2  # never reaches the largest value, so that inverting by the maximum would show
    pixels, flags = _display(tmp_path, header(values, PhotometricInterpretation=photometric, PresentationLUTShape=shape,
                                              WindowCenter=2048, WindowWidth=4096))  # fmt: skip
    shares = values / 4095
    assert np.array_equal(pixels, _rounded(1 - shares if photometric == "MONOCHROME1" else shares))
    assert any("PresentationLUTShape" in flag for flag in flags) == disputed


@pytest.mark.parametrize("width", [0, -5, 0.5, "nan", "inf", ""])
@pytest.mark.parametrize("function", ["LINEAR", "SIGMOID"])
def test_img_10_a_window_that_cannot_be_used(tmp_path, width, function):
    dataset = header(GREY, WindowCenter=1234, WindowWidth="1234.567", VOILUTFunction=function)
    content = write(tmp_path / "a", dataset).read_bytes()
    (tmp_path / "a").write_bytes(content.replace(b"1234.567", str(width).encode().ljust(8)))
    image = read_dicom(tmp_path / "a")
    if function == "SIGMOID" and width == 0.5:
        assert image.facts.flags == ()  # only LINEAR needs a width of one
        return
    assert image.facts.flags == ("unusable_window",)
    assert np.array_equal(image.pixels, read_dicom(write(tmp_path / "b", header(GREY))).pixels)


def test_img_10_a_window_beside_the_image(tmp_path):
    pixels, flags = _display(tmp_path, header(GREY, WindowCenter=60_000, WindowWidth=100))
    assert flags == ("unusable_window",)
    assert np.ptp(pixels) == 255


def test_img_11_the_first_window_and_the_first_lut_count(tmp_path):
    several = header(FULL, WindowCenter=[1000, 3000], WindowWidth=[500, 9], VOILUTFunction="LINEAR_EXACT")
    assert np.array_equal(_display(tmp_path, several)[0], _rounded((FULL - 1000.0) / 500 + 0.5))
    luts = items(_lut(0, list(range(4095, -1, -1)), 12), _lut(0, [0] * 4096, 12))
    with_luts = header(FULL, VOILUTSequence=luts, WindowCenter=1000, WindowWidth=500)
    assert np.array_equal(_display(tmp_path, with_luts)[0], _rounded(1 - FULL / 4095))


def test_img_11_an_empty_or_broken_lut_sequence_is_none(tmp_path):
    for luts in (items(), items({}), items({"LUTDescriptor": [4096, 0, 12]}), items(_lut(0, [1, 2], 12, count=4096))):
        window = {"WindowCenter": 1000, "WindowWidth": 500, "VOILUTFunction": "LINEAR_EXACT"}
        pixels, _ = _display(tmp_path, header(FULL, VOILUTSequence=luts, **window))
        assert np.array_equal(pixels, _rounded((FULL - 1000.0) / 500 + 0.5))


def test_img_11_zero_entries_are_65536(tmp_path):
    wide = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    entries = np.arange(65536)[::-1].astype("<u2").tobytes()
    dataset = header(wide, bits=16, VOILUTSequence=items(_lut(0, [], 16, count=0, data=entries)))
    dataset.VOILUTSequence[0]["LUTData"].VR = "OW"
    assert np.array_equal(_display(tmp_path, dataset)[0], _rounded(1 - wide / 65535))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_img_11_eight_bit_entries_two_in_a_word(tmp_path, syntax):
    entries = [(value * 7) % 256 for value in range(100)]
    packed = [entries[at] | entries[at + 1] << 8 for at in range(0, 100, 2)]
    values = (FULL % 100).astype(np.uint16)
    dataset = header(values, VOILUTSequence=items(_lut(0, entries, 8, data=packed)))
    dataset.VOILUTSequence[0]["LUTData"].VR = "US"
    pixels, _ = _display(tmp_path, dataset, syntax)
    assert np.array_equal(pixels, np.array(entries)[values])


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_img_11_entries_as_words_and_a_bit_count_that_is_too_high(tmp_path, syntax):
    entries = np.arange(4096)[::-1]
    order = ">u2" if syntax == uid.ExplicitVRBigEndian else "<u2"
    item = _lut(-100, list(entries), 16, data=entries.astype(order).tobytes())
    item["LUTDescriptor"] = [4096, 65536 - 100, 16]  # a negative first value, written without its sign
    dataset = header(FULL, VOILUTSequence=items(item))
    dataset.VOILUTSequence[0]["LUTData"].VR = "OW"
    pixels, _ = _display(tmp_path, dataset, syntax)
    assert np.array_equal(pixels, _rounded(np.clip(4095 - (FULL + 100.0), 0, None) / 4095))


@pytest.mark.parametrize("value", [0, 7, 4095])
def test_img_12_constant_images_are_refused(tmp_path, value):
    _refused(tmp_path, header(np.full_like(GREY, value)), "no_contrast")


def test_img_12_nothing_but_padding_is_refused(tmp_path):
    _refused(tmp_path, header(GREY % 5, PixelPaddingValue=0, PixelPaddingRangeLimit=4), "no_contrast")
    _refused(tmp_path, header(GREY % 2, PixelPaddingValue=0), "no_contrast")


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_takes_no_part_and_is_black(tmp_path, photometric):
    inner = (GREY // 4 + 1000).astype(np.uint16)
    padded = inner.copy()
    padded[:20], padded[20:24] = 4090, 4095
    pad = {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 4080}
    pixels, _ = _display(tmp_path, header(padded, PhotometricInterpretation=photometric, **pad))
    assert (pixels[:24] == 0).all()
    alone, _ = _display(tmp_path, header(inner[24:], PhotometricInterpretation=photometric))
    assert np.array_equal(pixels[24:], alone)


def test_padding_of_signed_pixels_written_without_its_sign(tmp_path):
    signed = (GREY.astype(np.int16) - 2000).astype(np.int16)
    signed[:3] = -2048
    dataset = header(signed, bits=16)
    dataset.add_new(0x00280120, "US", 65536 - 2048)
    pixels, _ = _display(tmp_path, dataset)
    assert (pixels[:3] == 0).all()
    assert np.ptp(pixels[3:]) == 255


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_img_13_without_a_window_the_stored_range_is_shown(tmp_path, bits):
    values = np.linspace(0, (1 << bits) - 1, 6400).round().astype(np.uint16).reshape(64, 100)
    pixels, flags = _display(tmp_path, header(values, bits=bits))
    assert np.array_equal(pixels, _rounded(values / ((1 << bits) - 1)))
    assert flags == ()
    signed = (values.astype(np.int32) - (1 << (bits - 1))).astype(np.int16)
    assert np.array_equal(_display(tmp_path, header(signed, bits=bits))[0], pixels)


def test_img_13_a_narrow_range_is_stretched_between_percentiles(tmp_path):
    values = (GREY // 4 + 500).astype(np.uint16)
    values[0, 0], values[0, 1] = 0, 4095  # outliers: less than a thousandth
    ordered = np.sort(values.ravel())
    low, high = float(ordered[5]), float(ordered[-6])
    pixels, _ = _display(tmp_path, header(values))
    assert np.array_equal(pixels, _rounded((values - low) / (high - low)))


def test_eight_bits_without_a_window_come_back_as_they_are(tmp_path):
    values = (GREY >> 4).astype(np.uint8)
    assert np.array_equal(_display(tmp_path, header(values))[0], values)


def test_img_15_a_palette_of_greys_is_read_and_one_of_colours_refused(tmp_path):
    values = (GREY >> 4).astype(np.uint8)
    ramp = np.arange(256)[::-1] * 257
    dataset = header(values, PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", ramp.astype("<u2").tobytes())
    assert np.array_equal(_display(tmp_path, dataset)[0], 255 - values)
    dataset.BluePaletteColorLookupTableData = ramp[::-1].astype("<u2").tobytes()
    _refused(tmp_path, dataset, "unsupported_photometric")
    del dataset.BluePaletteColorLookupTableData
    _refused(tmp_path, dataset, "unsupported_photometric")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "x"])
@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_img_36_a_rescale_that_is_no_number_is_refused(tmp_path, keyword, value):
    content = write(
        tmp_path / "a", header(**({"RescaleSlope": 1, "RescaleIntercept": 0} | {keyword: "1234.567"}))
    ).read_bytes()
    (tmp_path / "a").write_bytes(content.replace(b"1234.567", value.encode().ljust(8)))
    with pytest.raises(ImageError) as caught:
        read_dicom(tmp_path / "a")
    assert caught.value.code == "non_finite"


def test_img_36_values_below_zero_after_the_rescale_are_fine(tmp_path):
    plain, _ = _display(tmp_path, header(GREY))
    assert np.array_equal(_display(tmp_path, header(GREY, RescaleSlope=1, RescaleIntercept=-5000))[0], plain)
    assert np.array_equal(_display(tmp_path, header(GREY, RescaleSlope=-1, RescaleIntercept=0))[0], 255 - plain)


def test_overlays_are_not_drawn(tmp_path):
    plain, _ = _display(tmp_path, header(GREY))
    dataset = header(GREY)
    dataset.add_new(0x60000010, "US", GREY.shape[0])
    dataset.add_new(0x60000011, "US", GREY.shape[1])
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", b"\xff" * (GREY.size // 8))
    assert np.array_equal(_display(tmp_path, dataset)[0], plain)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(centre=st.floats(-1e6, 1e6), width=st.floats(-10, 1e6), slope=st.floats(-100, 100), first=st.booleans())
def test_any_window_gives_a_picture_or_a_refusal(tmp_path, centre, width, slope, first):
    numbers = {"WindowCenter": f"{centre:.9g}", "WindowWidth": f"{width:.9g}", "RescaleSlope": f"{slope:.6g}"}
    dataset = header(GREY, PhotometricInterpretation="MONOCHROME1" if first else "MONOCHROME2",
                     RescaleIntercept=0, **numbers)  # fmt: skip
    path = write(tmp_path / "a", dataset)
    if float(numbers["RescaleSlope"]) == 0.0:
        with pytest.raises(ImageError):
            read_dicom(path)
    else:
        pixels = read_dicom(path).pixels
        assert pixels.dtype == np.uint8
        assert pixels.min() < pixels.max()
