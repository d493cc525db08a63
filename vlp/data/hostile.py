"""What a folder of shards may not hold, and how it is refused before anything of it is decoded or believed.

A reader of ours goes by the manifest's offsets, never unpacks and never runs anything, so most of what is named here
could not hurt it.  But the same tars are read by other programs, which unpickle `.pkl`, follow links and write to
where a name points.  So a shard holds what the writer puts there and nothing else, byte for byte.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from vlp.data.faults import Fault, shown
from vlp.data.manifest import FILE_NAME, Manifest, Sample, Shard, read_manifest
from vlp.data.schema import KEY_PATTERN, member_name
from vlp.data.ustar import BLOCK, Member, check_end, padded_end, parse_header, walk
from vlp.errors import DataError

MAX_MANIFEST_BYTES = 2 << 30
_MAX_BYTES = {"json": 64 << 20, "txt": 16 << 20, "jpg": 256 << 20, "png": 256 << 20}
"""Largest members by what their names end with; a megabyte of report and a hundred masks of a study fit easily."""
MAX_HEADERS_AT_OPENING = 50_000
"""Members whose headers are all read when a folder is opened; of larger folders each is read with its member."""
_KEY = re.compile(KEY_PATTERN)
_PICKLED = frozenset({"pkl", "pickle", "pyd", "pt", "pth", "ckpt", "joblib", "dill", "npy", "npz", "bin", "mat", "rds"})
"""Endings of files that run code, or may, when a program decodes them; webdataset unpickles some of them unasked."""
_DECODED = frozenset(
    {"mp", "msg", "cbor", "ten", "tb", "cls", "cls2", "index", "inx", "id", "jsn", "h5", "hdf5"}
    | {"gz", "bz2", "xz", "zst", "zip", "tar", "tgz", "so", "dll", "exe", "sh", "py", "pyc"}
)
"""Endings that other readers of shards unpack, decode or run."""


def trusted_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, if its file is one that can be read without risk.

    Raises:
        DataError: if there is none, it is a link to elsewhere than a plain file, too large, or not one of ours.
    """
    path = folder / FILE_NAME
    try:
        found = path.stat()
    except OSError:
        return read_manifest(folder)  # which says what is missing
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: not a plain file")
    if found.st_size > MAX_MANIFEST_BYTES:
        raise DataError(f"{path}: {found.st_size} bytes; no manifest is larger than {MAX_MANIFEST_BYTES >> 30} GiB")
    try:
        return read_manifest(folder)
    except DataError as error:
        # The fault may quote the names of keys, which whoever made the file chose.
        raise DataError(str(error).encode("unicode_escape").decode("ascii")) from None


def refuse_hostile(folder: Path, manifest: Manifest) -> None:
    """Refuses a folder whose manifest or tars hold anything but what the manifest accounts for.

    Raises:
        DataError: naming the tar and what is wrong in it.
    """
    for fault in manifest_faults(manifest):
        raise DataError(f"{folder / fault.shard}: {_of(fault)}{fault.message}")
    headers = sum(len(sample.members) for shard in manifest.shards for sample in shard.samples)
    for shard in manifest.shards:
        path = folder / shard.name
        with path.open("rb") as file:
            _refuse_strangers(file.fileno(), shard, path)
            if headers <= MAX_HEADERS_AT_OPENING:
                _refuse_headers(file.fileno(), shard, path)


def _refuse_headers(file: int, shard: Shard, path: Path) -> None:
    for sample in shard.samples:
        for suffix, (offset, _) in sample.members.items():
            refuse_other(os.pread(file, BLOCK, offset - BLOCK), sample, suffix, where=f"{path}: study {sample.key}")


def manifest_faults(manifest: Manifest) -> Iterator[Fault]:
    """What a manifest alone gives away: names that are none, places that cannot be, and bytes it says nothing of."""
    shards: set[str] = set()
    for shard in manifest.shards:
        if shard.name in shards:
            yield Fault(shard=shard.name, code="shard_twice", message="the manifest lists this tar twice")
        shards.add(shard.name)
        if not shard.name.startswith(f"{shard.split}-"):
            yield Fault(shard=shard.name, code="split", message=f"the manifest puts it into split {shard.split}")
        for sample in shard.samples:
            for code, message in _sample_faults(sample, shard, manifest.image_format):
                yield Fault(shard=shard.name, key=shown(sample.key), code=code, message=message)
        yield from _place_faults(shard)


def name_fault(name: str, image_format: str) -> tuple[str, str] | None:
    """What is wrong with a member's name in a tar, as (code, message); None for a name as the writer makes them."""
    if name.startswith("/") or name.startswith("\\") or re.match(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://", name):
        return "hostile_path", f"{shown(name)}: an absolute path or an address, not a name"
    if ".." in re.split(r"[/\\]", name):
        return "hostile_path", f"{shown(name)}: a path that leaves its folder"
    key, dot, suffix = name.partition(".")
    if not _KEY.fullmatch(key) or not dot:
        return "unknown_member", f"{shown(name)} is no name of a study's file"
    return suffix_fault(suffix, image_format, name=name)


def suffix_fault(suffix: str, image_format: str, *, name: str) -> tuple[str, str] | None:
    """What is wrong with what follows the key and a dot, as (code, message); None for what a study has."""
    if suffix in ("json", "txt") or re.fullmatch(rf"(view[1-9]\d{{0,3}}\.)?{image_format}", suffix):
        return None
    ending = suffix.rpartition(".")[2].lower()
    if ending in _PICKLED:
        return "pickled_member", f"{shown(name)}: a pickled file; reading it can run code"
    if ending in _DECODED:
        return "foreign_member", f"{shown(name)}: a file that other readers unpack, decode or run"
    return "unknown_member", f"{shown(name)} is no file of a study"


def member_fault(member: Member, image_format: str) -> tuple[str, str] | None:
    """What makes a tar member one that no shard holds, as (code, message)."""
    if not member.plain:
        return "not_a_file", f"{shown(member.name)} is not a plain file but {member.kind}"
    found = name_fault(member.name, image_format)
    if found is not None:
        return found
    suffix = member.name.partition(".")[2]
    if member.size > max_bytes(suffix):
        return "too_large", f"{shown(member.name)} has {member.size} bytes; {max_bytes(suffix)} are allowed"
    return None


def max_bytes(suffix: str) -> int:
    """Largest member of a study by what follows its key and a dot."""
    return _MAX_BYTES.get(suffix.rpartition(".")[2], 0)


def refuse_other(block: bytes, sample: Sample, suffix: str, *, where: str) -> None:
    """Raises a `DataError` unless `block`, 512 bytes before a member's place, is the header of that very member."""
    offset, size = sample.members[suffix]
    if _is_plainly(block, name=f"{sample.key}.{suffix}", size=size):
        return  # nearly always, and a fifth of the time that reading it in full takes
    try:
        wrong = differs(parse_header(block, offset=offset), name=f"{sample.key}.{suffix}", size=size)
    except DataError as error:
        raise DataError(f"{where}: before its {suffix}: {error}") from None
    if wrong is not None:
        raise DataError(f"{where}: at the place of its {suffix} lies {wrong}")


def _is_plainly(block: bytes, *, name: str, size: int) -> bool:
    """Whether a header says this name, this size and "a file" in the very bytes that our writer uses."""
    return (
        block[:100] == name.encode().ljust(100, b"\0")
        and block[124:135] == b"%011o" % size
        and block[156:157] == b"0"
        and not block[345]
    )


def differs(found: Member, *, name: str, size: int) -> str | None:
    """What a member is, if it is not the plain file of that name and size."""
    if not found.plain:
        return f"{shown(found.name)}, not a plain file but {found.kind}"
    if found.name != name:
        return f"a member of another name, {shown(found.name)}"
    return None if found.size == size else f"a member of {found.size} bytes, not {size}"


def _of(fault: Fault) -> str:
    return f"study {fault.key}: " if fault.key else ""


def _sample_faults(sample: Sample, shard: Shard, image_format: str) -> Iterator[tuple[str, str]]:
    if not _KEY.fullmatch(sample.key):
        yield "key", "a key is made of letters, digits, - and _; readers split names at dots and slashes"
    wanted = {"txt", "json", *(member_name(index, image_format) for index in range(len(sample.views)))}
    for suffix in sorted(wanted - set(sample.members)):
        yield "missing_member", f"has no {suffix}"
    for suffix, (offset, size) in sample.members.items():
        if suffix not in wanted:
            yield suffix_fault(suffix, image_format, name=f"{sample.key}.{suffix}") or (
                "unknown_member",
                f"has {shown(suffix)}, an image more than the manifest counts",
            )
        if offset < BLOCK or offset % BLOCK:
            yield "bad_offset", f"the manifest places {shown(suffix)} where no member can begin"
        elif offset + size > shard.bytes:
            yield "bad_offset", f"the manifest places {shown(suffix)} behind its end"
        elif suffix in wanted and size > max_bytes(suffix):
            yield "too_large", f"{suffix} has {size} bytes; {max_bytes(suffix)} are allowed"


def _place_faults(shard: Shard) -> Iterator[Fault]:
    """Members must fill the tar from its beginning without overlap or gap, each study's together."""
    places = sorted(
        (offset, size, number)
        for number, sample in enumerate(shard.samples)
        for offset, size in sample.members.values()
    )
    end, last = 0, -1
    begun: set[int] = set()
    for offset, size, number in places:
        if offset - BLOCK != end:
            code, what = ("members_overlap", "overlaps the one before it") if offset - BLOCK < end else _GAP
            message = f"a member {what} (byte {min(end, max(offset - BLOCK, 0))})"
            yield Fault(shard=shard.name, key=shown(shard.samples[number].key), code=code, message=message)
        if number != last and number in begun:
            message = "its members lie between another study's; readers of tars take it for two"
            yield Fault(shard=shard.name, key=shown(shard.samples[number].key), code="member_order", message=message)
        begun.add(number)
        end, last = padded_end(offset, size), number


_GAP = "unknown_bytes", "lies behind bytes that the manifest says nothing of"


def _refuse_strangers(file: int, shard: Shard, path: Path) -> None:
    """Nothing may lie behind the last member that the manifest knows."""
    end = max((padded_end(*place) for sample in shard.samples for place in sample.members.values()), default=0)
    try:
        check_end(file, end, os.fstat(file).st_size)
    except DataError as error:
        raise DataError(f"{path}: {_name_stranger(file, end) or error}") from None


def _name_stranger(file: int, place: int) -> str | None:
    try:
        stranger = next(iter(walk(file, start=place)), None)
    except DataError:
        return None
    if stranger is None:
        return None
    found = member_fault(stranger, "jpg") or member_fault(stranger, "png")
    what = f"; {found[1]}" if found else ""
    return f"holds {shown(stranger.name)}, which the manifest does not know{what}"
