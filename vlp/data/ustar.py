"""The headers of a tar, read strictly and without unpacking anything.

A shard holds plain files under short names, so of the many forms a tar may have this knows one, USTAR, and names the
rest.  Libraries that know them all follow links, long names, sparse maps and extended headers on the word of whoever
made the tar; nothing here does.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from vlp.errors import DataError

BLOCK = 512
END = bytes(2 * BLOCK)
"""What a tar ends with; blocks of zeros may follow."""
MAX_END_BYTES = 1 << 20
_KINDS = {
    b"0": "a file",
    b"\0": "a file",
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a named pipe",
    b"7": "a contiguous file",
    b"D": "a folder's list",
    b"K": "a long link name",
    b"L": "a long name",
    b"M": "a part of a file",
    b"S": "a sparse file",
    b"V": "a volume label",
    b"X": "an extended header",
    b"g": "an extended header",
    b"x": "an extended header",
}
_WITHOUT_CONTENT = frozenset(b"123456")
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
    b"Rar!": "rar",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member of a tar, as its header says."""

    name: str
    """As it stands there: whoever made the tar chose it.  Bytes that are no UTF-8 are escaped."""
    kind: str
    """"a file", or what else it is, e.g. "a symbolic link"."""
    offset: int
    """Where its content begins."""
    size: int

    @property
    def plain(self) -> bool:
        """Whether it is a file with its content where the header says."""
        return self.kind == "a file"

    @property
    def end(self) -> int:
        """Where the next header lies."""
        return padded_end(self.offset, self.size)


def padded_end(offset: int, size: int) -> int:
    """First whole block behind `size` bytes at `offset`."""
    return offset + -(-size // BLOCK) * BLOCK


def parse_header(block: bytes, *, offset: int) -> Member:
    """The member whose header is `block`, 512 bytes; its content begins at `offset`.

    Raises:
        DataError: if the block is no header, or its size is negative or not in octal digits.
    """
    if len(block) < BLOCK:
        raise DataError("it ends in the middle of a header")
    packed = next((name for magic, name in _PACKED.items() if block.startswith(magic)), None)
    if packed is not None:
        raise DataError(f"packed with {packed}; shards are plain tars and are never unpacked")
    written = _octal(block[148:156])
    if written is None or not _sums_to(block, written):
        raise DataError("no tar header (its checksum is wrong)")
    size = _octal(block[124:136])
    if size is None:
        raise DataError("a member whose size is negative or no plain number")
    flag = block[156:157]
    name = _text(block[:100])
    if block[257:262] == b"ustar" and block[263:265] == b"00" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return Member(
        name=name,
        kind=_KINDS.get(flag, "a member of an unknown kind"),
        offset=offset,
        size=0 if flag[0] in _WITHOUT_CONTENT else size,
    )


def walk(file: int, *, start: int = 0) -> Iterator[Member]:
    """The members of an open tar from the header at `start` on.

    Raises:
        DataError: where the tar is damaged: a header that is none, content or an end mark that is missing, or bytes
            behind the end mark.  What came before was yielded.
    """
    length = os.fstat(file).st_size
    place = start
    while True:
        block = os.pread(file, BLOCK, place)
        if not block:
            raise DataError(f"it ends at byte {place} without the end mark of a tar")
        if not block.strip(b"\0"):
            check_end(file, place, length)
            return
        try:
            member = parse_header(block, offset=place + BLOCK)
        except DataError as error:
            raise DataError(f"byte {place}: {error}") from None
        if member.offset + member.size > length:
            raise DataError(f"it ends in the middle of a member ({length} bytes)")
        yield member
        place = member.end


def check_end(file: int, place: int, length: int) -> None:
    """Raises a `DataError` unless nothing but the end mark and a filling of zeros follows `place`."""
    if length - place > MAX_END_BYTES:
        raise DataError(f"{length - place} bytes lie behind its last member")
    end = os.pread(file, max(0, length - place), place)
    if end.strip(b"\0"):
        raise DataError(f"bytes that are no zeros lie behind its last member, from byte {place} on")
    if len(end) < len(END):
        raise DataError("it ends without the end mark of a tar")


def _sums_to(block: bytes, written: int) -> bool:
    rest = block[:148] + b" " * 8 + block[156:BLOCK]
    unsigned = sum(rest)
    # Old writers added up signed bytes.
    return unsigned == written or unsigned - 256 * sum(byte > 127 for byte in rest) == written


def _octal(field: bytes) -> int | None:
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if not digits or digits.strip(b"01234567"):
        return None
    return int(digits, 8)


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
