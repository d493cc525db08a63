import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.ustar import BLOCK, Member, check_end, padded_end, parse_header, walk
from vlp.errors import DataError, VlpError

NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=90)


def _tar(path: Path, members, **settings) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, **settings) as tar:
        for name, content, kind in members:
            header = tarfile.TarInfo(name)
            header.size, header.type = len(content), kind
            header.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(header, io.BytesIO(content))
    return path


def _walk(path: Path, start: int = 0) -> list[Member]:
    with path.open("rb") as file:
        return list(walk(file.fileno(), start=start))


@settings(max_examples=60, deadline=None)
@given(members=st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=5))
def test_it_finds_what_the_standard_library_finds(tmp_path_factory, members):
    path = _tar(
        tmp_path_factory.mktemp("tar") / "a.tar", [(name, content, tarfile.REGTYPE) for name, content in members]
    )
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    # The standard library drops trailing slashes and reads such a name as a folder's.
    found = [(member.name.rstrip("/") or member.name, member.offset, member.size) for member in _walk(path)]
    assert [place for _, *place in found] == [place for _, *place in expected]
    assert [name for name, *_ in found] == [name.rstrip("/") or name for name, _ in members]


def test_long_names_are_put_together_again(tmp_path):
    name = "a" * 60 + "/" + "b" * 90
    assert [member.name for member in _walk(_tar(tmp_path / "a.tar", [(name, b"", tarfile.REGTYPE)]))] == [name]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a character device"),
        (tarfile.BLKTYPE, "a block device"),
        (tarfile.DIRTYPE, "a folder"),
        (tarfile.FIFOTYPE, "a named pipe"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (tarfile.GNUTYPE_LONGNAME, "a long name"),
        (tarfile.XHDTYPE, "an extended header"),
        (b"Q", "a member of an unknown kind"),
    ],
)
def test_what_is_no_file_is_named(tmp_path, kind, said):
    path = _tar(tmp_path / "a.tar", [("x", b"", kind), ("y", b"behind", tarfile.REGTYPE)])
    odd, plain = _walk(path)
    assert (odd.name.rstrip("/"), odd.kind, odd.plain) == ("x", said, False)
    assert (plain.name, plain.plain, plain.size) == ("y", True, 6)


def _header(**changes: bytes) -> bytes:
    """A good header with some fields replaced and its checksum made right again."""
    header = tarfile.TarInfo("x")
    header.size = 3
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    fields = {"name": (0, 100), "size": (124, 12), "sum": (148, 8), "type": (156, 1)}
    for name, value in changes.items():
        start, length = fields[name]
        block[start : start + length] = value.ljust(length, b"\0")
    if "sum" not in changes:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\x80" + b"\0" * 10 + b"\x10", b"-0000000012", b"0000000009", b"nan", b""]
)
def test_sizes_that_are_negative_huge_or_no_number(size):
    with pytest.raises(DataError, match="negative or no plain number"):
        parse_header(_header(size=size), offset=BLOCK)


def test_checksums_signed_or_not_and_wrong_ones():
    assert parse_header(_header(), offset=BLOCK).size == 3
    block = bytearray(_header(name=b"\xe9\xe9"))
    assert parse_header(bytes(block), offset=BLOCK).name == r"\xe9\xe9"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 2 * 256)
    assert parse_header(bytes(block), offset=BLOCK).size == 3
    block[0] ^= 1
    with pytest.raises(DataError, match="checksum"):
        parse_header(bytes(block), offset=BLOCK)


@pytest.mark.parametrize(
    ("begins", "named"), [(b"\x1f\x8b\x08", "gzip"), (b"BZh9", "bzip2"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ\0", "xz")]
)
def test_packed_files_are_named_and_not_unpacked(tmp_path, begins, named):
    path = tmp_path / "a.tar"
    path.write_bytes(begins.ljust(2048, b"x"))
    with pytest.raises(DataError, match=f"byte 0: packed with {named}"):
        _walk(path)


def test_every_cut_of_a_tar_is_noticed(tmp_path):
    whole = _tar(tmp_path / "a.tar", [("x", b"1" * 600, tarfile.REGTYPE), ("y", b"2", tarfile.REGTYPE)])
    content = whole.read_bytes()
    end = padded_end(padded_end(BLOCK, 600) + BLOCK, 1)
    cut = tmp_path / "b.tar"
    for length in [*range(0, end + 2 * BLOCK, 171), end + 2 * BLOCK - 1]:
        cut.write_bytes(content[:length])
        with pytest.raises(DataError, match="it ends"):
            _walk(cut)
    cut.write_bytes(content[: end + 2 * BLOCK])
    assert len(_walk(cut)) == 2


def test_bytes_behind_the_end_are_noticed(tmp_path):
    path = _tar(tmp_path / "a.tar", [("x", b"1", tarfile.REGTYPE)])
    content = bytearray(path.read_bytes())
    content[-1] = 7
    path.write_bytes(content)
    with pytest.raises(DataError, match="behind its last member"):
        _walk(path)
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # holes: a terabyte that takes no room
        with pytest.raises(DataError, match="bytes lie behind"):
            check_end(file.fileno(), 1024, os.fstat(file.fileno()).st_size)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_tars_end_in_a_plain_error_or_a_list(tmp_path_factory, data):
    path = _tar(
        tmp_path_factory.getbasetemp() / "mutated.tar",
        [("x", b"1" * 600, tarfile.REGTYPE), ("y", b"2", tarfile.REGTYPE)],
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 2600))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(VlpError):
        assert all(0 <= member.size <= len(content) for member in _walk(path))
