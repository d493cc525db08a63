import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from vlp.data.encoded import MAX_PIXELS
from vlp.errors import BackendError, DataError
from vlp.ingest import images, read_image
from vlp.ingest.image_error import ImageError, Limits

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def _save(path: Path, image: Image.Image, **settings) -> Path:
    image.save(path, **settings)
    return path


def _refused(path: Path, code: str, reason: str | None = None, **options) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_image(path, **options)
    assert isinstance(caught.value, ImageError)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _bomb(path: Path, side: int) -> Path:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(1000))))
    return path


def test_a_grey_png_comes_back_exactly(tmp_path):
    file, pixels = read_image(_save(tmp_path / "a.png", Image.fromarray(GREY)))
    assert np.array_equal(pixels, GREY)
    assert (file.rows, file.columns, file.view, file.path) == (20, 30, "other", tmp_path / "a.png")
    assert len(file.sha256) == 64


def test_a_grey_jpeg_is_close(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    _, pixels = read_image(_save(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95))
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


def test_img_17_16_bit_png_keeps_its_histogram(tmp_path):
    values = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    _, pixels = read_image(_save(tmp_path / "a.png", Image.fromarray(values)))
    assert np.array_equal(pixels, np.round(values / 65535 * 255).astype(np.uint8))
    assert np.ptp(np.histogram(pixels, bins=8, range=(0, 256))[0]) <= 10  # clipping would put nearly all at white


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_img_18_grey_in_rgb_clothes_stays_grey(tmp_path, kind):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    rgb = Image.fromarray(np.repeat(smooth[..., None], 3, axis=2))
    _, pixels = read_image(_save(tmp_path / "a", rgb, format=kind, **({"quality": 95} if kind == "JPEG" else {})))
    assert np.abs(pixels.astype(int) - smooth).max() <= (0 if kind == "PNG" else 4)


def test_img_18_a_colour_picture_is_refused(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    _refused(_save(tmp_path / "a.png", Image.fromarray(colour)), "colour_image", "colour picture")
    marked = np.repeat(np.full((100, 100, 1), 90, np.uint8), 3, axis=2)
    marked[:15, :15] = (255, 0, 0)  # little enough for the mean, but clearly painted
    _refused(_save(tmp_path / "b.png", Image.fromarray(marked)), "colour_image")


def test_img_19_cmyk_is_refused(tmp_path):
    _refused(_save(tmp_path / "a.jpg", Image.fromarray(GREY).convert("CMYK")), "cmyk", "CMYK")


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_img_20_exif_orientation_is_applied_and_metadata_stays_behind(tmp_path, orientation, turn):
    stripes = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None], 24, axis=0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "Jane Doe"
    file, pixels = read_image(_save(tmp_path / "a.jpg", Image.fromarray(stripes), exif=exif, quality=100))
    expected = np.rot90(stripes, turn)
    assert pixels.shape == expected.shape == (file.rows, file.columns)
    assert np.abs(pixels.astype(int) - expected).max() <= 3
    assert type(pixels) is np.ndarray  # nothing but pixels goes on to a shard
    assert "Jane" not in repr(file)


def test_img_21_transparency_lies_on_black_and_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(images, "_told", set())
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    alpha = np.where(np.arange(30) < 15, 255, 0).astype(np.uint8)
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(np.tile(alpha, (20, 1)))))
    path = _save(tmp_path / "a.png", image)
    for _ in range(2):
        _, pixels = read_image(path)
    assert np.array_equal(pixels[:, :15], GREY[:, :15])
    assert (pixels[:, 15:] == 0).all()
    assert [record.getMessage().count("transparency_on_black") for record in caplog.records] == [1]
    assert str(path) not in caplog.text


def test_img_21_palette_interlace_and_profile_change_nothing(tmp_path):
    grey = Image.fromarray(GREY)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_image(_save(tmp_path / "p.png", grey.convert("P")))[1], GREY)
    assert np.array_equal(read_image(_save(tmp_path / "i.png", grey, icc_profile=profile))[1], GREY)
    # Adam7 by hand, since Pillow cannot write it: seven reduced pictures one after the other.
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b"".join(
        b"\0" + bytes(line) for top, left, down, across in passes for line in GREY[top::down, left::across]
    )
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 8, 0, 0, 0, 1))
    interlaced = b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(interlaced)
    assert np.array_equal(read_image(tmp_path / "a.png")[1], GREY)


def test_img_21_an_animated_png_is_refused(tmp_path):
    frames = [Image.fromarray(np.roll(GREY, shift, axis=1)) for shift in range(3)]
    path = _save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:])
    _refused(path, "animated", "animated")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_img_22_truncated_images_are_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)).save(buffer, format=kind)
    path = tmp_path / "a"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    _refused(path, "truncated_image", "truncated or damaged")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_img_22_every_short_beginning_of_a_png_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="PNG")
    for length in range(8, 60):
        (tmp_path / "a").write_bytes(buffer.getvalue()[:length])
        _refused(tmp_path / "a", "truncated_image", "truncated or damaged")


@pytest.mark.parametrize("side", [8001, 50_000])
def test_img_23_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    assert side * side > MAX_PIXELS
    _refused(_bomb(tmp_path / "a.png", side), "too_many_pixels", "more than 64 million pixels")


def test_img_23_a_bomb_takes_no_memory(tmp_path):
    _bomb(tmp_path / "a.png", 50_000)  # 2.5 GB of pixels
    program = (
        "import resource, sys\n"
        "from vlp.ingest import read_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_image(sys.argv[1])\n"
        "except Exception as error: assert error.code == 'too_many_pixels', error\n"
        "else: raise SystemExit('not refused')\n"
        "grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "assert grown < 20_000, grown\n"  # KiB
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.png")], check=True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>error</html>", "markup"),
        (b"Not found\n", "neither PNG nor JPEG nor DICOM"),
        (bytes(500), "neither PNG nor JPEG nor DICOM"),
        (b"%PDF-1.7", "neither PNG nor JPEG nor DICOM"),
        (b"PK\x03\x04" + bytes(40), "ZIP archive"),
    ],
)
def test_img_24_what_is_no_image_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    _refused(path, "not_an_image", reason)


def test_img_24_empty_missing_and_folders_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    _refused(tmp_path / "empty.png", "empty_file", "empty")
    _refused(tmp_path / "nowhere.png", "unreadable_file", "No such file")
    _refused(tmp_path, "unreadable_file", "not a file")


@pytest.mark.parametrize("kind", ["TIFF", "WEBP", "GIF", "BMP", "EPS", "TGA"])
def test_img_25_other_formats_are_refused_by_their_content(tmp_path, kind):
    _refused(_save(tmp_path / "a.png", Image.fromarray(GREY), format=kind), "not_an_image")


@pytest.mark.parametrize("content", [b"SIMPLE  =                    T" + b" " * 2850, b"8BPS\0\1" + bytes(60)])
def test_img_25_fits_and_photoshop_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    _refused(tmp_path / "a.png", "not_an_image")


def test_img_25_the_content_decides_not_the_name(tmp_path):
    path = _save(tmp_path / "a.tiff", Image.fromarray(GREY), format="PNG")
    assert np.array_equal(read_image(path)[1], GREY)


def test_img_30_shapes_no_radiograph_has_are_refused(tmp_path):
    for number, (rows, columns) in enumerate([(10, 31), (31, 10)]):
        pixels = np.resize(GREY, (rows, columns))
        _refused(_save(tmp_path / f"{number}.png", Image.fromarray(pixels)), "bad_geometry", "longer side")
    small = _save(tmp_path / "s.png", Image.fromarray(np.resize(GREY, (223, 300))))
    _refused(small, "bad_geometry", "at least 224", limits=Limits(min_side_px=224))
    assert read_image(small)[1].shape == (223, 300)
    _refused(_save(tmp_path / "1.png", Image.fromarray(GREY[:1, :1])), "no_contrast")
    long = Image.fromarray(np.resize(GREY, (3400, 10_000)))
    assert read_image(_save(tmp_path / "l.png", long, compress_level=0))[1].shape == (3400, 10_000)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_img_12_constant_images_are_refused(tmp_path, value):
    _refused(_save(tmp_path / "a.png", Image.new("L", (9, 9), value)), "no_contrast", "same value")


def test_a_secret_in_a_comment_stays_there(tmp_path):
    comments = PngImagePlugin.PngInfo()
    comments.add_text("Description", "Jane Doe")
    file, _ = read_image(_save(tmp_path / "a.png", Image.fromarray(GREY), pnginfo=comments))
    assert "Jane" not in repr(file)


def test_dicom_is_read_and_brings_its_view_and_spacing(tmp_path):
    writing = pytest.importorskip("tests.ingest.dicom_writing")
    path = writing.write(
        tmp_path / "a.png", writing.header(ViewPosition="LL", PixelSpacing=[0.2, 0.3], WindowCenter=9, WindowWidth=-1)
    )
    file, pixels = read_image(path)
    assert (file.id, file.view, file.spacing_mm) == ("a.png", "lateral", (0.2, 0.3))
    assert pixels.shape == (file.rows, file.columns) == writing.GREY.shape


def test_dicom_without_pydicom_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(40))
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"pip install 'vlp\[dicom\]'"):
        read_image(tmp_path / "a.dcm")


def test_the_reason_is_told_where_reading_is_forbidden(tmp_path):
    path = _save(tmp_path / "a.png", Image.fromarray(GREY))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this account may read everything")
    _refused(path, "unreadable_file", "Permission denied")
