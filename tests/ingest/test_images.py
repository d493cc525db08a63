import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.errors import DataError
from vlp.ingest import read_image
from vlp.ingest.images import MAX_PIXELS

GREY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)


def _save(path: Path, image: Image.Image, **settings) -> Path:
    image.save(path, **settings)
    return path


def _refused(path: Path, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_a_grey_png_comes_back_exactly(tmp_path):
    file, pixels = read_image(_save(tmp_path / "a.png", Image.fromarray(GREY)))
    assert np.array_equal(pixels, GREY)
    assert (file.rows, file.columns, file.view, file.path) == (20, 30, "other", tmp_path / "a.png")
    assert len(file.sha256) == 64


def test_the_content_decides_not_the_name(tmp_path):
    path = _save(tmp_path / "a.jpg", Image.fromarray(GREY), format="PNG")
    assert np.array_equal(read_image(path)[1], GREY)


def test_a_grey_jpeg_is_close(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    _, pixels = read_image(_save(tmp_path / "a.jpg", Image.fromarray(smooth), quality=95))
    assert np.abs(pixels.astype(int) - smooth).max() <= 4


def test_16_bit_png_keeps_its_histogram(tmp_path):
    values = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    _, pixels = read_image(_save(tmp_path / "a.png", Image.fromarray(values)))
    assert np.array_equal(pixels, np.round(values / 65535 * 255).astype(np.uint8))
    assert np.ptp(np.histogram(pixels, bins=8, range=(0, 256))[0]) <= 10  # clipping would put nearly all at white


@pytest.mark.parametrize(("orientation", "turn"), [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(tmp_path, orientation, turn):
    stripes = np.repeat(np.arange(0, 240, 8, dtype=np.uint8)[None], 24, axis=0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    _, pixels = read_image(_save(tmp_path / "a.jpg", Image.fromarray(stripes), exif=exif, quality=100))
    expected = np.rot90(stripes, turn)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_grey_in_other_clothes_stays_grey(tmp_path):
    rgb = Image.fromarray(np.repeat(GREY[..., None], 3, axis=2))
    palette = Image.fromarray(GREY, mode="L").convert("P")
    for index, image in enumerate((rgb, palette)):
        assert np.array_equal(read_image(_save(tmp_path / f"{index}.png", image))[1], GREY)


def test_transparency_lies_on_black(tmp_path):
    alpha = np.where(np.arange(30) < 15, 255, 0).astype(np.uint8)
    image = Image.merge("LA", (Image.fromarray(GREY), Image.fromarray(np.tile(alpha, (20, 1)))))
    _, pixels = read_image(_save(tmp_path / "a.png", image))
    assert np.array_equal(pixels[:, :15], GREY[:, :15])
    assert (pixels[:, 15:] == 0).all()


@pytest.mark.parametrize("content", [b"<html>error</html>", b"GIF89a" + bytes(50), b"%PDF-1.7", bytes(500)])
def test_what_is_no_image_is_refused(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    _refused(path, "neither PNG nor JPEG")


def test_empty_missing_and_folders_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    _refused(tmp_path / "empty.png", "empty")
    _refused(tmp_path / "nowhere.png", "No such file")
    _refused(tmp_path, "not a file")


def test_dicom_is_named(tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + bytes(40))
    _refused(path, "DICOM file; convert it to PNG first")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images_are_refused(tmp_path, kind, share):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)).save(buffer, format=kind)
    path = tmp_path / "a"
    path.write_bytes(buffer.getvalue()[: int(share * len(buffer.getvalue()))])
    _refused(path, "truncated or damaged")


def test_every_short_beginning_of_a_png_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, format="PNG")
    for length in range(8, 60):
        (tmp_path / "a").write_bytes(buffer.getvalue()[:length])
        _refused(tmp_path / "a", "truncated or damaged")


def test_cmyk_is_refused(tmp_path):
    _refused(_save(tmp_path / "a.jpg", Image.fromarray(GREY).convert("CMYK")), "CMYK")


def test_a_colour_picture_is_refused(tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    _refused(_save(tmp_path / "a.png", Image.fromarray(colour)), "colour picture")


def test_an_animated_png_is_refused(tmp_path):
    frames = [Image.fromarray(np.roll(GREY, shift, axis=1)) for shift in range(3)]
    _refused(_save(tmp_path / "a.png", frames[0], save_all=True, append_images=frames[1:]), "animated")


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_are_refused(tmp_path, value):
    _refused(_save(tmp_path / "a.png", Image.new("L", (9, 9), value)), "same value")


@pytest.mark.parametrize("side", [8001, 50_000])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))))
    assert side * side > MAX_PIXELS
    _refused(tmp_path / "a.png", "more than 64 million pixels")


def test_the_reason_is_told_where_reading_is_forbidden(tmp_path):
    path = _save(tmp_path / "a.png", Image.fromarray(GREY))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this account may read everything")
    _refused(path, "Permission denied")
