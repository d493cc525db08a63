import numpy as np
import pytest
from PIL import Image

from vlp.errors import DataError
from vlp.ingest.image_index import image_name, index_images, read_or_fault
from vlp.ingest.source import StudyFault


@pytest.fixture(autouse=True)
def _fresh():
    index_images.cache_clear()


def _write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("00000001_000.png", "00000001_000"),
        ("images_001/images/a.PNG", "a"),
        ("a\\b.jpeg", "b"),
        ("1_IM-0001-4001.dcm.png", "1_IM-0001-4001"),
        ("1.2.276.0.7230010", "1.2.276.0.7230010"),
        ("1.2.276.0.7230010.dcm", "1.2.276.0.7230010"),
        ("view1_frontal", "view1_frontal"),
        ("", ""),
    ],
)
def test_names_lose_folders_and_endings_and_keep_dots_of_their_own(file, name):
    assert image_name(file) == name


def test_images_are_found_in_any_folder_and_nothing_else(tmp_path):
    for file in ("images_001/images/a.png", "images_002/images/b.jpg", "c.dcm", "notes.txt", "._d.png", "e.png.part"):
        _write(tmp_path / file)
    assert dict(index_images(tmp_path)) == {
        "a": tmp_path / "images_001/images/a.png",
        "b": tmp_path / "images_002/images/b.jpg",
        "c": tmp_path / "c.dcm",
    }


def test_linked_folders_are_followed_and_rings_end(tmp_path):
    _write(tmp_path / "real" / "a.png")
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "archive" / "ring").symlink_to(tmp_path / "archive")
    assert dict(index_images(tmp_path / "archive")) == {"a": tmp_path / "archive" / "linked" / "a.png"}


def test_two_images_of_one_name_are_not_guessed_at(tmp_path):
    _write(tmp_path / "full" / "jane.png")
    _write(tmp_path / "small" / "jane.jpg")
    with pytest.raises(DataError, match="several images have the same name") as error:
        index_images(tmp_path)
    assert "jane" not in str(error.value)
    assert list(index_images(tmp_path / "small")) == ["jane"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        index_images(tmp_path / "absent")


def test_an_image_is_read_under_the_name_asked_for(tmp_path):
    _write(tmp_path / "a.png")
    read = read_or_fault(tmp_path / "a.png", id_="study/a", where="table.csv: line 2")
    assert (read.file.id, read.file.path, read.file.rows) == ("study/a", tmp_path / "a.png", 8)
    assert read.pixels[0].tolist() == list(range(8))


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_faults_name_the_row_and_not_the_file(tmp_path, content):
    path = tmp_path / "jane.png"
    if content is not None:
        path.write_bytes(content)
    fault = read_or_fault(path, id_="jane", where="table.csv: line 2")
    assert isinstance(fault, StudyFault)
    assert fault.message.startswith("table.csv: line 2: ")
    assert "jane" not in fault.message
    assert (fault.code == "missing_image") == (content is None)
