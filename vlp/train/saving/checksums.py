"""A folder's checksums: what `sha256sum -c SHA256SUMS` understands, and one line more.

The first line says how many files there are, as a comment, so that a list which lost its end is not taken for whole.
"""

import errno
import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from vlp.data.storage import sync

SUMS_NAME = "SHA256SUMS"
_HEADER = "# files: "
_LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\n][^\\\n]*)")
_NO_FOLDER_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)
"""What file systems answer that have no names to bring to the disk by themselves."""


def seal(folder: Path) -> None:
    """Writes SHA256SUMS over every file below `folder` and has files, list and names on the disk when it returns."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    names = [name for name in names if name != SUMS_NAME]
    lines = [f"{_HEADER}{len(names)}", *(f"{_digest(folder / name)}  {name}" for name in names)]
    (folder / SUMS_NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in (*names, SUMS_NAME):
        sync(folder / name)
        _forget(folder / name)
    for inner in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        sync_folder(inner)


def fault(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None if every file is what it was.  Reads everything."""
    listed = _listed(folder / SUMS_NAME)
    if isinstance(listed, str):
        return listed
    for name, expected in listed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        try:
            found = _digest(path)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
        if found != expected:
            return f"{name} does not match its checksum"
    return None


def sync_folder(folder: Path) -> None:
    """Has the names in a folder on the disk when it returns, where the file system can do that."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _listed(file: Path) -> dict[str, str] | str:
    """Checksums by name, or what is wrong with the list."""
    if not file.is_file():
        return f"{SUMS_NAME} is missing: it was never finished"
    try:
        header, *lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        return f"{SUMS_NAME} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        return f"{SUMS_NAME} is damaged"
    entries = [match.groups() for match in map(_LINE.fullmatch, lines) if match]
    # One empty part follows the last line's end.
    if lines[-1:] != [""] or len(entries) != len(lines) - 1 or header != f"{_HEADER}{len(entries)}":
        return f"{SUMS_NAME} is damaged"
    if any(".." in PurePosixPath(name).parts for _, name in entries):
        return f"{SUMS_NAME} names files outside its folder"
    return {name: digest for digest, name in entries}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _forget(file: Path) -> None:
    """Drops a file from the page cache, so that who reads it next sees what the disk holds."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            handle = os.open(file, os.O_RDONLY)
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
