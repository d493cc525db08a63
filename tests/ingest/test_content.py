import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.ingest.content import describe, encoding_of, kind_of

IMPLICIT = b"".join(
    struct.pack("<HHI", 8, number, len(value)) + value
    for number, value in ((0x05, b"ISO_IR 100"), (0x08, b"ORIGINAL\\PRIMARY"), (0x16, b"1.2.840.1 "))
)
EXPLICIT = b"".join(
    struct.pack("<HH2sH", 8, number, kind, len(value)) + value
    for number, kind, value in ((0x05, b"CS", b"ISO_IR 100"), (0x08, b"CS", b"A\\B "), (0x16, b"UI", b"1.2.840.1 "))
)
BIG = b"".join(
    struct.pack(">HH2sH", 8, number, kind, len(value)) + value
    for number, kind, value in ((0x05, b"CS", b"ISO_IR 100"), (0x08, b"CS", b"A\\B "), (0x16, b"UI", b"1.2.840.1 "))
)


def test_magic_numbers_decide():
    assert kind_of(b"\x89PNG\r\n\x1a\nrest") == "PNG"
    assert kind_of(b"\xff\xd8\xff\xe0") == "JPEG"
    assert kind_of(bytes(128) + b"DICM") == "DICOM"
    assert kind_of(b"GIF89a") is None


@pytest.mark.parametrize(
    ("content", "expected"), [(IMPLICIT, (True, True)), (EXPLICIT, (False, True)), (BIG, (False, False))]
)
def test_a_bare_data_set_is_recognised_in_every_encoding(content, expected):
    assert encoding_of(content) == expected
    assert kind_of(content) == "DICOM"
    assert encoding_of(content[:20]) is None  # two elements are no proof


def test_elements_out_of_order_or_of_other_groups_are_no_data_set():
    first, second = IMPLICIT[:18], IMPLICIT[18:42]
    assert encoding_of(second + first + IMPLICIT[42:]) is None
    assert encoding_of(b"\x28\0" + IMPLICIT[2:]) is None


@settings(deadline=None)
@given(st.binary(min_size=0, max_size=600))
def test_noise_is_not_dicom(content):
    if content[128:132] != b"DICM":
        assert kind_of(b"\x01" + content) is None


def test_pages_of_noise_are_not_dicom():
    assert not [True for _ in range(2000) if kind_of(b"\x01" + os.urandom(4096))]


def test_other_files_are_described():
    assert "markup" in describe(b"\n <!DOCTYPE html>")
    assert "ZIP" in describe(b"PK\x03\x04")
    assert "neither" in describe(b"hello")
