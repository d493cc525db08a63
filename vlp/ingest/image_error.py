"""Why one image was not taken: a `DataError` with a short code that faults are counted by, and the limits of size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.errors import DataError

MAX_FILE_BYTES = 512 * 1024 * 1024


class ImageError(DataError):
    """An image that cannot be used as it is, and `code`, the kind of fault, e.g. "truncated_pixel_data"."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        # Without this it could not travel back from a worker process.
        return ImageError, (self.code, str(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Shapes that are refused."""

    min_side_px: int = 1
    max_aspect: float = 3.0
    """Longer side over shorter side."""

    def check(self, rows: int, columns: int, path: Path) -> None:
        """Passes an image of `rows` x `columns`.

        Raises:
            ImageError: "bad_geometry".
        """
        short, long = sorted((rows, columns))
        if short < self.min_side_px:
            raise ImageError(
                "bad_geometry", f"{path}: {columns} x {rows} pixels; the shorter side needs at least {self.min_side_px}"
            )
        if long > self.max_aspect * short:
            raise ImageError(
                "bad_geometry",
                f"{path}: {columns} x {rows} pixels; the longer side may be {self.max_aspect:g} times the shorter",
            )


DEFAULT_LIMITS = Limits()
CLINICAL_LIMITS = Limits(min_side_px=224)
"""What an archive of real radiographs is held to; smaller pictures are thumbnails."""
