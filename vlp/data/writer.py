"""Studies to tars: deterministic bytes, whole or not at all.

The same studies in the same order give the same bytes, so a shard's SHA-256 identifies its content.  Everything is
written to a hidden folder beside the target, which takes the target's place only when the manifest is complete.
"""

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import cv2
import numpy as np

from vlp.data.manifest import (
    CODE_VERSION,
    FILE_NAME,
    SHARD_NAME,
    SPLITS,
    Manifest,
    Sample,
    Shard,
    SplitCounts,
    is_shard_folder,
    write_manifest,
)
from vlp.data.schema import LabelsOrigin, SampleJson, shard_key, text_of
from vlp.errors import DataError
from vlp.records import FRONTAL, Certainty, LoadedStudy, Split, Study

ImageFormat = Literal["jpg", "png"]
DEFAULT_SALT = "vlp"
_OURS = re.compile(rf"{re.escape(FILE_NAME)}|{SHARD_NAME}")
"""Files that may be replaced."""
JPEG_QUALITY = 95


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedStudy:
    """A study with its images as file bytes, ready to be written; small enough to cross process borders."""

    study: Study
    images: tuple[bytes, ...]
    image_format: ImageFormat
    labels_origin: LabelsOrigin | None = None


def encode_study(
    loaded: LoadedStudy,
    *,
    image_format: ImageFormat = "jpg",
    jpeg_quality: int = JPEG_QUALITY,
    labels_origin: LabelsOrigin | None = None,
) -> EncodedStudy:
    """The study with its images compressed, the first frontal one moved to the front."""
    study = loaded.study
    first = next((index for index, image in enumerate(study.images) if image.view in FRONTAL), 0)
    order = [first, *(index for index in range(len(study.images)) if index != first)]
    return EncodedStudy(
        study=replace(study, images=tuple(study.images[index] for index in order)),
        images=tuple(_encode(loaded.pixels[index], image_format, jpeg_quality) for index in order),
        image_format=image_format,
        labels_origin=labels_origin,
    )


class ShardWriter:
    """Writes studies to `{split}-{000000}.tar` and, when left without an error, `manifest.json`.

    Use as a context manager; afterwards `manifest` says what was written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        samples_per_shard: int = 1000,
        image_format: ImageFormat = "jpg",
        salt: str = DEFAULT_SALT,
        recipe: Mapping[str, Any] | None = None,
        source_fingerprint: str = "",
    ) -> None:
        assert samples_per_shard > 0
        self.folder = folder
        self.manifest: Manifest | None = None
        self.faults: Counter[str] = Counter()
        """Studies left out by kind of fault; goes into the manifest."""
        self._samples_per_shard = samples_per_shard
        self._image_format = image_format
        self._salt = salt
        self._recipe = dict(recipe or {})
        self._source_fingerprint = source_fingerprint
        self._temporary = folder.parent / f".{folder.name}.partial-{os.getpid()}"
        self._made: list[Path] = []
        """Folders above `folder` that were not there before, the innermost first."""
        self._tars: dict[Split, _Tar] = {}
        self._shards: list[Shard] = []
        self._split_of: dict[str, Split] = {}
        self._keys: set[str] = set()
        self._counts = _Counts()

    def __enter__(self) -> "ShardWriter":
        refuse_foreign_folder(self.folder)
        self._made = [parent for parent in self.folder.parents if not parent.exists()]
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(self.folder)
            self._temporary.mkdir()
        except OSError as error:
            self._remove_made()
            raise DataError(f"{self.folder}: cannot write there: {error.strerror}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as fault:
            raise DataError(f"{self.folder}: cannot write shards: {fault.strerror}") from None
        finally:
            for tar in self._tars.values():
                tar.close()
            shutil.rmtree(self._temporary, ignore_errors=True)
            if self.manifest is None:
                self._remove_made()

    def _remove_made(self) -> None:
        """Takes back the folders made above the target, as far as nothing else has been put there."""
        with suppress(OSError):
            for parent in self._made:
                parent.rmdir()

    def write(self, study: LoadedStudy | EncodedStudy) -> str:
        """Appends one study to the shards of its split and returns its key.

        Raises:
            DataError: if the study was written before, its person stands in another split too, or the disk is full.
        """
        encoded = encode_study(study, image_format=self._image_format) if isinstance(study, LoadedStudy) else study
        assert encoded.image_format == self._image_format
        key = shard_key(encoded.study.id, self._salt)
        if key in self._keys:
            raise DataError("the source gives the same study id twice; ids must be unique")
        sample = SampleJson.from_study(
            encoded.study, key=key, image_format=self._image_format, labels_origin=encoded.labels_origin
        )
        if self._split_of.setdefault(sample.person.id, sample.split) != sample.split:
            raise DataError(
                f"a patient of {sample.source} stands in two splits ({self._split_of[sample.person.id]} and "
                f"{sample.split}); split by patient"
            )
        try:
            self._append(sample, encoded)
        except OSError as error:
            raise DataError(f"{self.folder}: cannot write shards: {error.strerror}") from None
        self._keys.add(key)
        self._counts.add(sample)
        return key

    def _append(self, sample: SampleJson, encoded: EncodedStudy) -> None:
        tar = self._tars.get(sample.split)
        if tar is None or len(tar.samples) >= self._samples_per_shard:
            number = sum(shard.split == sample.split for shard in self._shards)
            if tar is not None:
                self._shards.append(tar.finish())
                number += 1
            tar = self._tars[sample.split] = _Tar(self._temporary, sample.split, number)
        members = {image.member: content for image, content in zip(sample.images, encoded.images, strict=True)}
        members["txt"] = text_of(encoded.study)[0].encode()
        members["json"] = sample.model_dump_json(exclude_defaults=True).encode()
        tar.add(sample, members)

    def _finish(self) -> None:
        if not self._keys:
            raise DataError(f"{self.folder}: there is no study to write")
        self._shards.extend(tar.finish() for tar in self._tars.values())
        shards = sorted(self._shards, key=lambda shard: (SPLITS.index(shard.split), shard.name))
        manifest = self._counts.manifest(
            vlp_version=CODE_VERSION,
            recipe=self._recipe,
            source_fingerprint=self._source_fingerprint,
            image_format=self._image_format,
            faults=dict(sorted(self.faults.items())),
            shards=tuple(shards),
        )
        write_manifest(manifest, self._temporary)
        _take_place(self._temporary, self.folder)
        self.manifest = manifest


def refuse_foreign_folder(folder: Path) -> None:
    """Raises a `DataError` if `folder` exists and holds anything but shards, which alone may be replaced."""
    if folder.is_dir() and (is_shard_folder(folder) or not any(folder.iterdir())):
        strangers = [path.name for path in folder.iterdir() if not _OURS.fullmatch(path.name)]
        if strangers:
            raise DataError(f"{folder}: holds {strangers[0]} beside its shards and would lose it; move it away first")
        return
    if folder.exists():
        raise DataError(f"{folder}: exists and is no folder of shards; name another output or remove it yourself")


class _Tar:
    """One shard while it grows."""

    def __init__(self, folder: Path, split: Split, number: int) -> None:
        self.split = split
        self.name = f"{split}-{number:06d}.tar"
        self.samples: list[Sample] = []
        self._path = folder / self.name
        self._file: IO[bytes] = self._path.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 closed below

    def add(self, sample: SampleJson, members: Mapping[str, bytes]) -> None:
        places: dict[str, tuple[int, int]] = {}
        for suffix, content in members.items():
            header = tarfile.TarInfo(f"{sample.key}.{suffix}")  # its time, owner and group are 0 already
            header.size, header.mode = len(content), 0o644
            places[suffix] = (self._tar.offset + tarfile.BLOCKSIZE, len(content))
            self._tar.addfile(header, io.BytesIO(content))
        self.samples.append(
            Sample(
                key=sample.key,
                patient=sample.person.id,
                views=tuple(image.view for image in sample.images),
                sentences=len(sample.sentences),
                members=places,
            )
        )

    def finish(self) -> Shard:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Shard(
            name=self.name,
            split=self.split,
            bytes=self._path.stat().st_size,
            sha256=digest,
            num_samples=len(self.samples),
            samples=tuple(self.samples),
        )

    def close(self) -> None:
        self._file.close()


class _Counts:
    """What a manifest reports, added up study by study."""

    def __init__(self) -> None:
        self.splits: dict[Split, Counter[str]] = {}
        self.patients: dict[Split, set[str]] = {}
        self.findings: dict[Split, dict[str, Counter[Certainty]]] = {}
        self.labels_origin: Counter[str] = Counter()
        self.sentences_origin: Counter[str] = Counter()
        self.licenses: Counter[str] = Counter()
        self.synthetic = False

    def add(self, sample: SampleJson) -> None:
        self.splits.setdefault(sample.split, Counter()).update(
            studies=1,
            images=len(sample.images),
            sentences=len(sample.sentences),
            without_sentences=int(not sample.sentences),
        )
        self.patients.setdefault(sample.split, set()).add(sample.person.id)
        findings = self.findings.setdefault(sample.split, {})
        for finding, certainty in sample.labels.items():
            findings.setdefault(finding, Counter())[certainty] += 1
        self.labels_origin[sample.labels_origin] += 1
        self.sentences_origin.update(sentence.origin for sentence in sample.sentences)
        self.licenses[sample.license] += 1
        self.synthetic |= sample.synthetic

    def manifest(self, **facts: Any) -> Manifest:
        return Manifest(
            synthetic=self.synthetic,
            splits={split: self._split(split) for split in SPLITS if split in self.splits},
            labels_origin=dict(sorted(self.labels_origin.items())),
            sentences_origin=dict(sorted(self.sentences_origin.items())),
            licenses=dict(sorted(self.licenses.items())),
            **facts,
        )

    def _split(self, split: Split) -> SplitCounts:
        findings = {name: dict(sorted(counts.items())) for name, counts in sorted(self.findings[split].items())}
        return SplitCounts(
            **{name: self.splits[split][name] for name in ("studies", "images", "sentences", "without_sentences")},
            patients=len(self.patients[split]),
            findings=findings,
        )


def _encode(pixels: np.ndarray, image_format: ImageFormat, jpeg_quality: int) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if image_format == "jpg" else []
    done, content = cv2.imencode(f".{image_format}", np.ascontiguousarray(pixels), options)
    assert done
    return bytes(content.tobytes())


def _take_place(temporary: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(temporary, folder)
        return
    old = temporary.with_name(temporary.name + "-old")
    os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Clears what killed writers of the same folder left behind."""
    for left in folder.parent.glob(f".{folder.name}.partial-*"):
        process = left.name.removeprefix(f".{folder.name}.partial-").split("-")[0]
        if process.isdigit() and int(process) != os.getpid() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(left, ignore_errors=True)
