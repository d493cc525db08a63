"""Whole files read into memory, if they are files and not too large."""

from pathlib import Path

from vlp.ingest.image_error import MAX_FILE_BYTES, ImageError


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        ImageError: "unreadable_file", "empty_file" or "too_many_bytes".
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImageError("unreadable_file", f"{path}: not a file")
        if size == 0:
            raise ImageError("empty_file", f"{path}: the file is empty")
        if size > MAX_FILE_BYTES:
            raise ImageError(
                "too_many_bytes", f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; too large for one radiograph"
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageError("unreadable_file", f"{path}: cannot be read: {error.strerror}") from None
