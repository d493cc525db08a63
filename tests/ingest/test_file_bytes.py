import os

import pytest

from vlp.ingest.file_bytes import read_bytes
from vlp.ingest.image_error import MAX_FILE_BYTES, ImageError


def _code(path):
    with pytest.raises(ImageError) as caught:
        read_bytes(path)
    return caught.value.code


def test_a_file_comes_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_bytes(tmp_path / "a") == b"abc"


def test_what_is_no_readable_file_is_refused(tmp_path):
    (tmp_path / "empty").touch()
    assert _code(tmp_path / "empty") == "empty_file"
    assert _code(tmp_path / "nowhere") == "unreadable_file"
    assert _code(tmp_path) == "unreadable_file"
    os.symlink(tmp_path / "gone", tmp_path / "link")
    assert _code(tmp_path / "link") == "unreadable_file"


def test_a_huge_file_is_refused_without_being_read(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    assert _code(tmp_path / "huge") == "too_many_bytes"
