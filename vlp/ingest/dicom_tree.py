"""A folder of DICOM files in whatever order: which files there are, what they are, and which belong together."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from vlp import log
from vlp.errors import DataError
from vlp.ingest.content import HEAD_BYTES, kind_of
from vlp.ingest.dicom_file import DicomFile, open_dicom, quiet
from vlp.ingest.dicom_header import header_oddities, require_chest_radiograph
from vlp.ingest.dicom_reports import is_report
from vlp.ingest.image_error import ImageError

ENDINGS = frozenset({".dcm", ".dicom", ".dic", ".ima"})
"""Names that promise a DICOM file: one that breaks the promise is a fault, any other file that is no DICOM is not."""
OTHER_OBJECTS = frozenset({"unsupported_object", "wrong_modality", "not_chest", "dicomdir"})
"""Why a sound file is not taken: it shows something else."""
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files below a folder, in the order of their names."""

    folder: Path
    names: tuple[str, ...]
    digest: str
    """Of the names: an index is worth something only with the listing it was made from."""

    def path(self, index: int) -> Path:
        """The file of that index."""
        return self.folder / self.names[index]

    def where(self, index: int) -> str:
        """How messages name a file, whose own name may say whose it is."""
        return f"{self.folder}: file {index + 1} of {len(self.names)} in the order of names"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """What the headers of a folder say."""

    groups: tuple[tuple[int, ...], ...]
    """Indices of the files that share a patient, a study or an image, in the order of their first file; a file
    that is damaged stands alone."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Sound files that are no chest radiographs: "code: what it is" -> how many."""
    oddities: Counter[str] = field(default_factory=Counter)
    """Radiographs whose header contradicts itself or states an unusual orientation: what -> how many."""
    num_other_files: int = 0
    """Files that are no DICOM and do not promise to be."""
    num_copies: int = 0
    """Files of the same bytes as an earlier one with the same SOPInstanceUID."""
    num_conflicts: int = 0
    """Files of other bytes than the first one with the same SOPInstanceUID."""


@lru_cache(maxsize=4)
def list_files(folder: Path) -> Listing:
    """Every file below `folder`; links to folders are followed, but no folder is entered twice.  Kept per process.

    Raises:
        DataError: if there is no such folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    names = tuple(sorted(path.relative_to(folder).as_posix() for path in _walk(folder)))
    digest = hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()
    return Listing(folder=folder, names=names, digest=digest[:_DIGEST_CHARACTERS])


def _walk(folder: Path) -> Iterator[Path]:
    entered: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(root) / name for name in files if not name.startswith("."))


def state_of(listing: Listing) -> str:
    """SHA-256 over names, sizes and times of change."""
    digest = hashlib.sha256()
    for index, name in enumerate(listing.names):
        try:
            status = listing.path(index).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        except OSError:
            digest.update(f"{name}\0gone\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@lru_cache(maxsize=4)
def scan(folder: Path, state: str) -> Scan:
    """Reads every header below `folder` once; kept per process for as long as the files' `state` is the same."""
    del state  # only there to be part of the cache's key
    listing = list_files(folder)
    groups = _Groups(len(listing.names))
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    oddities: Counter[str] = Counter()
    damaged: list[int] = []
    with quiet():
        for index in log.progress(range(len(listing.names)), description="reading DICOM headers", unit="files"):
            file = read_header(listing.path(index))
            if isinstance(file, DicomFile):
                why = not_wanted(file, listing.path(index))
                if why is None:
                    oddities.update(header_oddities(file.header))
                first = groups.join(index, file)
                if first is not None:
                    counts["copies" if _same_bytes(listing, first, index) else "conflicts"] += 1
            else:
                why = file
                if file is None:
                    counts["others"] += 1
                elif file.code not in OTHER_OBJECTS:
                    damaged.append(index)
            if why is not None and why.code in OTHER_OBJECTS:
                left_out[why.code] += 1
    members = {**groups.members(), **{index: [index] for index in damaged}}
    return Scan(
        groups=tuple(tuple(members[first]) for first in sorted(members)),
        left_out=left_out,
        oddities=oddities,
        num_other_files=counts["others"],
        num_copies=counts["copies"],
        num_conflicts=counts["conflicts"],
    )


def _same_bytes(listing: Listing, first: int, second: int) -> bool:
    try:
        one, other = (hashlib.sha256(listing.path(index).read_bytes()).digest() for index in (first, second))
    except OSError:
        return False
    return one == other


def read_header(path: Path) -> DicomFile | ImageError | None:
    """The header of a file, the fault of one that promises to be DICOM, or None for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if kind_of(head) == "DICOM":
            return open_dicom(path, pixels=False)
        if path.suffix.lower() not in ENDINGS:
            return None
        code = "not_dicom" if head else "empty_file"
        return ImageError(code, f"{path}: {'not a DICOM file' if head else 'the file is empty'}")
    except ImageError as error:
        return error
    except OSError as error:
        return ImageError("unreadable_file", f"{path}: cannot be read: {error.strerror}")


def not_wanted(file: DicomFile, path: Path) -> ImageError | None:
    """Why a file is neither a chest radiograph nor a report; None if it is one of them."""
    if is_report(file):
        return None
    try:
        require_chest_radiograph(file, path)
    except ImageError as error:
        return error
    return None


class _Groups:
    """Files joined by what they share (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))
        self._first: dict[tuple[str, str], int] = {}
        self._joined: list[int] = []

    def join(self, index: int, file: DicomFile) -> int | None:
        """Adds a file; gives the first one with the same SOPInstanceUID."""
        self._joined.append(index)
        same_image = None
        for keyword in ("PatientID", "StudyInstanceUID", "SOPInstanceUID"):
            value = file.header.text(keyword)
            if not value:
                continue
            first = self._first.setdefault((keyword, value), index)
            if keyword == "SOPInstanceUID" and first != index:
                same_image = first
            mine, other = self._root(index), self._root(first)
            self._parent[max(mine, other)] = min(mine, other)
        return same_image

    def members(self) -> dict[int, list[int]]:
        groups: dict[int, list[int]] = {}
        for index in self._joined:
            groups.setdefault(self._root(index), []).append(index)
        return groups

    def _root(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = self._parent[self._parent[index]]
            index = self._parent[index]
        return index


def unit_of(listing: Listing, indices: Sequence[int]) -> str:
    """The name of a group: its indices, and which listing they count in."""
    return f"{','.join(map(str, indices))}@{listing.digest}"


def indices_of(listing: Listing, unit: str) -> list[int]:
    """The indices a unit stands for.

    Raises:
        DataError: if the folder's files are not those the unit was made from.
    """
    places, _, digest = unit.partition("@")
    if digest != listing.digest:
        raise DataError(f"{listing.folder}: files were added or removed while the folder was being read; start again")
    return [int(place) for place in places.split(",")]
