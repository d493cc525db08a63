"""A damaged folder of shards made sound again from what is whole, and an exact word on what is lost.

Nothing is mended inside a study: it is kept as it is or dropped.  A tar with a fault is written anew from its whole
studies, wherever they lie in it; the damaged tar stays beside it under a name no reader takes along.  The manifest is
written last, so a repair that is killed is done again from the start and comes to the same.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vlp import log
from vlp.data.counts import Sums, count_patients
from vlp.data.faults import Fault, shown
from vlp.data.hostile import differs, max_bytes, trusted_manifest
from vlp.data.manifest import FILE_NAME, Manifest, Sample, Shard, write_manifest
from vlp.data.reader import ShardReader
from vlp.data.schema import SampleJson
from vlp.data.soundness import as_counted, contradictions, examine
from vlp.data.ustar import BLOCK, END, Member, padded_end, parse_header, walk
from vlp.data.validate import check
from vlp.errors import DataError

LOST = "lost_in_shard"
"""What a manifest calls studies that a repair dropped, among the studies refused."""
_RECORD = 20 * BLOCK
"""Tars are filled up to a multiple of this."""
_NOT_BY_REPAIR = frozenset({"patient_in_two_splits", "unknown_file"})
"""Faults that only whoever made the shards can decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A study that is no longer in the shards."""

    shard: str
    key: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair did."""

    found: tuple[Fault, ...]
    """What was wrong before."""
    lost: tuple[Lost, ...]
    rewritten: tuple[str, ...]
    """Tars written anew."""
    removed: tuple[str, ...]
    """Tars of which no study is left."""
    unproven: Mapping[str, int]
    """Tar -> studies kept from it although its checksum was wrong: whole and consistent, but not every changed pixel or
    word in them would show."""
    left: tuple[Fault, ...]
    """What is still wrong, and cannot be repaired here."""


def repair(folder: Path | str, *, workers: int | None = None) -> Repair:
    """Drops what is damaged from a folder of shards, so that `check` finds nothing but what it cannot decide.

    Raises:
        DataError: if the folder has no readable manifest, no study of it is whole, or it cannot be written.
    """
    root = Path(folder)
    found = check(root, workers=workers)
    if all(fault.code in _NOT_BY_REPAIR for fault in found):
        return Repair(found=tuple(found), lost=(), rewritten=(), removed=(), unproven={}, left=tuple(found))
    work = _Work(root, trusted_manifest(root), found)
    try:
        work.mend()
    except OSError as error:
        raise DataError(f"{root}: cannot be repaired: {error.strerror}; nothing was removed") from None
    return Repair(
        found=tuple(found),
        lost=tuple(work.lost),
        rewritten=tuple(work.rewritten),
        removed=tuple(work.removed),
        unproven=work.unproven,
        left=tuple(check(root, workers=workers)),
    )


class _Work:
    """One repair, shard by shard."""

    def __init__(self, folder: Path, manifest: Manifest, faults: Sequence[Fault]) -> None:
        self.lost: list[Lost] = []
        self.rewritten: list[str] = []
        self.removed: list[str] = []
        self.unproven: dict[str, int] = {}
        self._folder = folder
        self._manifest = manifest
        self._codes: dict[str, set[str]] = {}
        for fault in faults:
            self._codes.setdefault(fault.shard, set()).add(fault.code)
        self._twice = {(fault.shard, fault.key) for fault in faults if fault.code == "study_twice"}
        self._keys: set[str] = set()

    def mend(self) -> None:
        """Writes the tars that need it, then the manifest."""
        for name in (FILE_NAME, *(shard.name for shard in self._manifest.shards)):
            _partial(self._folder / name).unlink(missing_ok=True)  # of a repair that was killed
        shards: list[Shard] = []
        for shard in log.progress(self._manifest.shards, description="repairing", unit="shards"):
            codes = self._codes.get(shard.name, set()) - _NOT_BY_REPAIR
            if shard.name in {kept.name for kept in shards}:
                continue
            kept = self._mend(shard, codes) if codes else shard
            if kept is not None:
                shards.append(kept)
                self._keys.update(sample.key for sample in kept.samples)
        if not shards:
            raise DataError(f"{self._folder}: no study of it is whole; make the shards again with vlp ingest")
        for shard in self._manifest.shards:
            if shard.name not in {kept.name for kept in shards}:
                _put_aside(self._folder / shard.name, replaced=False)
                self.removed.append(shard.name)
        write_manifest(self._described(tuple(shards)), self._folder)

    def _mend(self, shard: Shard, codes: set[str]) -> Shard | None:
        """The shard with its whole studies only; None if there is none."""
        path = self._folder / shard.name
        if "missing" in codes:
            self.lost.extend(_lost(shard, sample, "its tar is missing") for sample in shard.samples)
            return None
        with path.open("rb") as file:
            salvage = _Salvage(file.fileno(), shard, self._manifest.image_format)
            studies = list(self._whole(salvage, shard, trusted="sha256" not in codes))
            if not studies:
                return None
            if "sha256" in codes:
                self.unproven[shard.name] = len(studies)
            temporary = _partial(path)
            try:
                written = _write(temporary, shard, studies, salvage)
                self._replace(temporary, path, written)
            finally:
                with suppress(OSError):
                    temporary.unlink()
        return written

    def _replace(self, temporary: Path, path: Path, written: Shard) -> None:
        """Puts a new tar in its place; nothing is done where that very tar lies there already."""
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == written.sha256
        if not same:
            _put_aside(path, replaced=True)
            os.replace(temporary, path)
            self.rewritten.append(path.name)

    def _whole(self, salvage: "_Salvage", shard: Shard, *, trusted: bool) -> Iterator[SampleJson]:
        """The descriptions of the whole studies of a tar, in order; the others are noted as lost.

        A tar whose checksum is right says the truth of its studies; where it is wrong, the manifest does.
        """
        seen: set[str] = set()
        for sample in shard.samples:
            json, found = examine(
                partial(salvage.member, sample.key),
                image_format=self._manifest.image_format,
                where=shard.name,
                strict=not trusted,
            )
            if json is not None:
                found.extend(self._disagreements(sample, json, shard, trusted=trusted))
                if sample.key in self._keys | seen or (shard.name, sample.key) in self._twice:
                    found.append(("twice", "it was there twice; the first one is kept"))
            seen.add(sample.key)
            if json is not None and not found:
                yield json
            else:
                self.lost.append(_lost(shard, sample, found[0][1]))

    def _disagreements(self, sample: Sample, json: SampleJson, shard: Shard, *, trusted: bool) -> list[tuple[str, str]]:
        if not trusted:
            return list(contradictions(sample, json, shard.split))
        if (json.key, json.split) != (sample.key, shard.split):
            return [("sample", "it describes itself as another study, or as one of another split")]
        return []

    def _described(self, shards: tuple[Shard, ...]) -> Manifest:
        """The manifest of what is left; what was lost counts among the studies refused."""
        manifest = self._manifest.model_copy(update={"shards": shards})
        reader = ShardReader(self._folder, manifest)
        sums = Sums()
        for key in log.progress(reader.keys(), description="counting", unit="studies"):
            sums.study(as_counted(reader.sample_json(key)))
        reader.close()
        faults = dict(manifest.faults)
        if self.lost:
            faults[LOST] = faults.get(LOST, 0) + len(self.lost)
        figures = sums.total(count_patients(shards))
        updated = {name: getattr(figures, name) for name in type(figures).model_fields}
        described = manifest.model_copy(update=updated | {"faults": dict(sorted(faults.items()))})
        return described if described.adds_up() else described.model_copy(update={"read": None})


class _Salvage:
    """The members of a damaged tar: where its headers say, else where the manifest does."""

    def __init__(self, file: int, shard: Shard, image_format: str) -> None:
        self._file = file
        self._image_format = image_format
        self._listed = {
            f"{sample.key}.{suffix}": place for sample in shard.samples for suffix, place in sample.members.items()
        }
        self._found: dict[str, Member] = {}
        with suppress(DataError):
            for member in walk(file):
                if member.plain:
                    self._found.setdefault(member.name, member)

    def member(self, key: str, suffix: str) -> bytes:
        """Content of a study's file; raises a `DataError` where it is nowhere."""
        name = f"{key}.{suffix}"
        listed = self._listed.get(name)
        if listed is not None and self._is_there(name, *listed):
            offset, size = listed
        elif name in self._found:
            offset, size = self._found[name].offset, self._found[name].size
        else:
            raise DataError(f"its {suffix} is missing or damaged")
        if size > max_bytes(suffix):
            raise DataError(f"its {suffix} is too large ({size} bytes)")
        content = os.pread(self._file, size, offset)
        if len(content) != size:
            raise DataError(f"its {suffix} is cut off")
        return content

    def _is_there(self, name: str, offset: int, size: int) -> bool:
        if not BLOCK <= offset < os.fstat(self._file).st_size:
            return False
        try:
            header = parse_header(os.pread(self._file, BLOCK, offset - BLOCK), offset=offset)
        except DataError:
            return False
        return differs(header, name=name, size=size) is None


def _write(path: Path, shard: Shard, studies: Sequence[SampleJson], salvage: _Salvage) -> Shard:
    """A tar of whole studies, byte for byte as the writer makes it."""
    samples: list[Sample] = []
    with path.open("wb") as file:
        for json in studies:
            members: dict[str, tuple[int, int]] = {}
            for suffix in (*(image.member for image in json.images), "txt", "json"):  # names that `examine` has seen
                content = salvage.member(json.key, suffix)
                header = tarfile.TarInfo(f"{json.key}.{suffix}")
                header.size, header.mode = len(content), 0o644
                file.write(header.tobuf(tarfile.USTAR_FORMAT))
                members[suffix] = (file.tell(), len(content))
                file.write(content)
                file.write(bytes(padded_end(0, len(content)) - len(content)))
            samples.append(_entry(json, members))
        file.write(END)
        file.write(bytes(-file.tell() % _RECORD))
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return shard.model_copy(
        update={
            "bytes": path.stat().st_size,
            "sha256": digest,
            "num_samples": len(samples),
            "samples": tuple(samples),
        }
    )


def _entry(json: SampleJson, members: dict[str, tuple[int, int]]) -> Sample:
    return Sample(
        key=json.key,
        patient=json.person.id,
        views=tuple(image.view for image in json.images),
        sentences=len(json.sentences),
        members=members,
    )


def _put_aside(path: Path, *, replaced: bool) -> None:
    """Keeps a damaged tar under a name of its own; a copy by name only where another takes its place at once."""
    if not path.is_file():
        return
    aside = next(name for number in range(10_000) if not (name := _aside(path, number)).exists())
    if replaced:
        with suppress(OSError):
            os.link(path, aside)  # so that there is no moment without the tar
            return
    os.rename(path, aside)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _aside(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.damaged" + (f"-{number}" if number else ""))


def _lost(shard: Shard, sample: Sample, why: str) -> Lost:
    return Lost(shard=shard.name, key=shown(sample.key), why=why)
