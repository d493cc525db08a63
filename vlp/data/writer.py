"""Studies to tars: deterministic bytes, whole or not at all.

The same studies in the same order give the same bytes, so a shard's SHA-256 identifies its content.  Shards grow in a
hidden folder beside the target, which takes the target's place only when the manifest is complete.  With a journal,
what a broken-off build has closed is kept, and the next one goes on from there.
"""

import hashlib
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vlp.data.counts import Sums, count_patients
from vlp.data.journal import Entry, Journal
from vlp.data.manifest import (
    CODE_VERSION,
    SPLITS,
    Manifest,
    Sample,
    Shard,
    write_manifest,
    write_whole,
)
from vlp.data.packing import JPEG_QUALITY, EncodedStudy, ImageFormat, PackedStudy, encode_study, pack
from vlp.data.storage import Folder, Target, sync
from vlp.errors import DataError
from vlp.records import LoadedStudy, Split

__all__ = ["JPEG_QUALITY", "EncodedStudy", "ImageFormat", "PackedStudy", "ShardWriter", "encode_study", "pack"]

DEFAULT_SALT = "vlp"
_GROWING = ".growing-"
"""Before the name of a tar that is not closed."""
_END = bytes(2 * tarfile.BLOCKSIZE)


class ShardWriter:
    """Writes studies to `{split}-{000000}.tar` and, when left without an error, `manifest.json`.

    Use as a context manager; afterwards `manifest` says what was written.  Left with an error, it leaves nothing
    behind, except that with a `journal` closed shards and the journal stay, to be given to the next writer.
    """

    def __init__(
        self,
        target: Target | Path,
        *,
        samples_per_shard: int = 1000,
        image_format: ImageFormat = "jpg",
        salt: str = DEFAULT_SALT,
        recipe: Mapping[str, Any] | None = None,
        source_fingerprint: str = "",
        journal: Journal | None = None,
        notes: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """With a `journal`, goes on from its entries; `notes` gives the fields of an entry the caller fills."""
        assert samples_per_shard > 0
        self.target = target if isinstance(target, Target) else Folder(target)
        self.manifest: Manifest | None = None
        self.faults: Counter[str] = Counter()
        """Studies refused by kind of fault; goes into the manifest."""
        self.facts: dict[str, Any] = {}
        """Other fields of the manifest."""
        self.beside: dict[str, bytes] = {}
        """Other files to put beside the manifest: name -> content."""
        self._samples_per_shard = samples_per_shard
        self._image_format = image_format
        self._salt = salt
        self._recipe = dict(recipe or {})
        self._source_fingerprint = source_fingerprint
        self._journal = journal
        self._notes = notes
        self._lock: Journal | None = None
        """Where no journal is kept, one that stays empty and locks others out."""
        self._tars: dict[Split, _Tar] = {}
        self._shards: list[Shard] = []
        self._split_of: dict[str, Split] = {}
        self._keys: set[str] = set()
        self._sums = Sums()

    @property
    def num_studies(self) -> int:
        """Studies written so far, earlier starts of the same build included."""
        return len(self._keys)

    @property
    def num_mute(self) -> int:
        """Of these, the ones without a sentence."""
        return self._sums.num_mute + sum(tar.sums.num_mute for tar in self._tars.values())

    def __enter__(self) -> "ShardWriter":
        target = self.target
        target.refuse_foreign()
        target.prepare()
        try:
            with target.writing():
                if self._journal is None:
                    self._journal = self._lock = Journal(target.journal)
                    self._journal.start({})
                target.settle()
                self._take_over(self._journal.entries)
        except DataError:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                with self.target.writing():
                    self._finish()
        finally:
            self._leave()

    def write(self, study: LoadedStudy | EncodedStudy) -> str:
        """Appends one study to the shards of its split and returns its key.

        Raises:
            DataError: as `add` does.
        """
        encoded = encode_study(study, image_format=self._image_format) if isinstance(study, LoadedStudy) else study
        assert encoded.image_format == self._image_format
        packed = pack(encoded, salt=self._salt)
        self.add(packed)
        return packed.key

    def add(self, study: PackedStudy) -> None:
        """Appends one study that was packed with the same salt and image format.

        Raises:
            DataError: if the study was written before, its person stands in another split too, or the disk is full.
        """
        if study.key in self._keys:
            raise DataError("the source gives the same study id twice; ids must be unique")
        self._place(study.patient, study.split, study.source)
        with self.target.writing():
            tar = self._tars.get(study.split)
            if tar is None:
                number = sum(shard.split == study.split for shard in self._shards)
                tar = self._tars[study.split] = _Tar(self.target.partial, study.split, number)
            tar.add(study)
            self._keys.add(study.key)
            if len(tar.samples) >= self._samples_per_shard:
                self._close(study.split)

    def _place(self, patient: str, split: Split, source: str) -> None:
        if self._split_of.setdefault(patient, split) != split:
            raise DataError(
                f"a patient of {source} stands in two splits ({self._split_of[patient]} and {split}); split by patient"
            )

    def _take_over(self, entries: Iterable[Entry]) -> None:
        """Continues after the closed shards of these entries; what else lies in the folder is unfinished."""
        partial = self.target.partial
        entries = list(entries)
        if not entries:
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(exist_ok=True)
        for entry in entries:
            self._shards.append(entry.shard)
            self._sums.counts(entry.counts)
            for sample in entry.shard.samples:
                self._keys.add(sample.key)
                self._split_of[sample.patient] = entry.shard.split
        known = {shard.name for shard in self._shards}
        for path in partial.iterdir():
            if path.name not in known:
                path.unlink()

    def _close(self, split: Split) -> None:
        """Finishes the open tar of one split; a kill in between loses this tar and nothing else."""
        tar = self._tars.pop(split)
        shard = tar.finish()
        sync(self.target.partial)
        self.target.keep(self.target.partial / shard.name)
        counts = tar.sums.total()
        assert self._journal is not None
        if self._journal is not self._lock:
            self._journal.append(Entry(shard=shard, counts=counts, **self._notes()))
        self._shards.append(shard)
        self._sums.counts(counts)

    def _finish(self) -> None:
        if not self._keys and not self.facts.get("part"):
            raise DataError(f"{self.target.name}: there is no study to write")
        for split in list(self._tars):
            self._close(split)
        shards = sorted(self._shards, key=lambda shard: (SPLITS.index(shard.split), shard.name))
        counts = self._sums.total(count_patients(shards))
        manifest = Manifest(
            vlp_version=CODE_VERSION,
            recipe=self._recipe,
            source_fingerprint=self._source_fingerprint,
            image_format=self._image_format,
            faults=dict(sorted(self.faults.items())),
            shards=tuple(shards),
            **dict(counts),
            **self.facts,
        )
        assert manifest.adds_up(), "a study was lost between archive and shards"
        for name, content in self.beside.items():
            write_whole(self.target.partial / name, content)
        write_manifest(manifest, self.target.partial)
        self.target.publish(manifest)
        self.manifest = manifest

    def _leave(self) -> None:
        for tar in self._tars.values():
            tar.abandon()
        if self._journal is None:
            return  # somebody else's: nothing here is ours
        if self.manifest is not None or not self._journal.entries:
            self.target.discard()
            self._journal.remove()
            self.target.retreat()
        if self._lock is not None:
            self._lock.close()


class _Tar:
    """One shard while it grows."""

    def __init__(self, folder: Path, split: Split, number: int) -> None:
        self.split = split
        self.samples: list[Sample] = []
        self.sums = Sums()
        self._path = folder / f"{split}-{number:06d}.tar"
        self._growing = folder / f"{_GROWING}{self._path.name}"
        self._size = 0
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = self._growing.open("wb", buffering=0)

    def add(self, study: PackedStudy) -> None:
        places = {suffix: (self._size + offset, size) for suffix, offset, size in study.places}
        self._append(study.content)
        self.sums.study(study)
        self.samples.append(
            Sample(
                key=study.key,
                patient=study.patient,
                views=study.views,
                sentences=sum(study.sentences.values()),
                members=places,
            )
        )

    def finish(self) -> Shard:
        self._append(_END)
        self._append(bytes(-self._size % tarfile.RECORDSIZE))
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._growing, self._path)
        return Shard(
            name=self._path.name,
            split=self.split,
            bytes=self._size,
            sha256=self._digest.hexdigest(),
            num_samples=len(self.samples),
            samples=tuple(self.samples),
        )

    def abandon(self) -> None:
        self._file.close()
        with suppress(OSError):
            self._growing.unlink()

    def _append(self, content: bytes) -> None:
        self._digest.update(content)
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._size += len(content)
