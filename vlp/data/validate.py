"""Everything that can be wrong with a folder of shards, found before training finds it."""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from vlp import log
from vlp.data.counts import Counts, Sums, count_patients
from vlp.data.faults import Fault, shown
from vlp.data.hostile import manifest_faults, member_fault, trusted_manifest
from vlp.data.manifest import FILE_NAME, QUARANTINE_NAME, SHARD_NAME, Manifest, Shard
from vlp.data.reader import ShardReader
from vlp.data.soundness import as_counted, contradictions, examine
from vlp.data.ustar import Member, walk
from vlp.errors import DataError
from vlp.records import Split

KEPT_ASIDE = re.compile(rf"{SHARD_NAME}\.damaged(-\d+)?")
"""What a repair calls the tars it replaced; no reader of *.tar takes them along."""
_MAX_STRANGERS = 200
"""Members a tar should not have that are named one by one."""


def check(folder: Path | str, *, workers: int | None = None) -> list[Fault]:
    """Reads everything and lists what is wrong; an empty list means the shards are as they were written.

    Per shard: present, size, SHA-256, a plain tar with the members the manifest names at the places it names, each
    study's together, and nothing else: no links, devices, paths, pickled files or members that are there twice.
    Per study: a key without dots, all its files, a description of this schema, sentences whose spans lie in the text,
    images that decode to their size, regions inside their image.
    Over all: no key and no study twice, no patient in two splits, figures in the manifest that are those of the
    studies, no foreign file beside the tars.

    Args:
        folder: the shards.
        workers: threads that read and decode; None for one per core.

    Raises:
        DataError: if the folder has no readable manifest.
    """
    root = Path(folder)
    manifest = trusted_manifest(root)
    faults = [*manifest_faults(manifest), *_over_all(manifest), *_unknown_files(root, manifest)]
    threads = workers or len(os.sched_getaffinity(0))
    together = _Together()
    with ThreadPoolExecutor(min(threads, max(1, len(manifest.shards)))) as pool:
        found = pool.map(lambda shard: _inspect(root, manifest, shard), manifest.shards)
        for report in log.progress(found, description="checking", total=len(manifest.shards), unit="shards"):
            faults.extend(report.faults)
            together.add(report)
    faults.extend(together.twice)
    faults.extend(together.wrong_figures(manifest))
    return list(dict.fromkeys(faults))


@dataclass(slots=True, kw_only=True)
class _Report:
    """What one shard came to."""

    shard: str
    faults: list[Fault]
    counts: Counts | None = None
    """Figures of its studies; None where some could not be read."""
    studies: list[tuple[str, int]] = field(default_factory=list)
    """(key, a number for the source and the study's id) of every readable description."""


@dataclass(slots=True)
class _Together:
    """What shows only when all shards are read."""

    sums: Sums = field(default_factory=Sums)
    complete: bool = True
    twice: list[Fault] = field(default_factory=list)
    _first: dict[int, str] = field(default_factory=dict)

    def add(self, report: _Report) -> None:
        """Takes one shard's studies and figures."""
        if report.counts is None:
            self.complete = False
        else:
            self.sums.counts(report.counts)
        for key, study in report.studies:
            if study in self._first:
                message = f"this study was in {self._first[study]} before"
                self.twice.append(Fault(shard=report.shard, key=key, code="study_twice", message=message))
            self._first.setdefault(study, report.shard)

    def wrong_figures(self, manifest: Manifest) -> Iterator[Fault]:
        """Where the manifest counts otherwise; nothing while studies are damaged, since it counts what was written."""
        if not self.complete:
            return
        said, found = Counts.of(manifest), self.sums.total(count_patients(manifest.shards))
        names = [name for name in Counts.model_fields if getattr(said, name) != getattr(found, name)]
        if not manifest.adds_up():
            names.append("read")
        if names:
            message = f"its figures are not those of the studies: {', '.join(names)}"
            yield Fault(shard=FILE_NAME, code="counts", message=message)


def _inspect(folder: Path, manifest: Manifest, shard: Shard) -> _Report:
    """Reads one shard whole."""
    report = _Report(shard=shard.name, faults=list(_file_faults(folder, shard, manifest.image_format)))
    if any(fault.code == "missing" for fault in report.faults):
        return report
    reader = ShardReader(folder, manifest.model_copy(update={"shards": (shard,)}))
    strict = any(fault.code == "sha256" for fault in report.faults)
    sums, complete = Sums(), True
    for sample in shard.samples:
        json, found = examine(
            partial(reader.member, sample.key),
            image_format=manifest.image_format,
            where=f"{shard.name}: {sample.key}",
            strict=strict,
        )
        if json is None:
            complete = False
        else:
            sums.study(as_counted(json))
            report.studies.append((sample.key, _number(json.source, json.study)))
            found.extend(contradictions(sample, json, shard.split))
        report.faults.extend(
            Fault(shard=shard.name, key=shown(sample.key), code=code, message=message) for code, message in found
        )
    reader.close()
    report.counts = sums.total() if complete else None
    return report


def _number(*words: str) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest())


def _over_all(manifest: Manifest) -> Iterator[Fault]:
    seen: set[str] = set()
    split_of: dict[str, Split] = {}
    for shard in manifest.shards:
        for sample in shard.samples:
            key = shown(sample.key)
            if sample.key in seen:
                yield Fault(shard=shard.name, key=key, code="key_twice", message="this key was used before")
            seen.add(sample.key)
            first = split_of.setdefault(sample.patient, shard.split)
            if first != shard.split:
                message = f"its patient is also in split {first}"
                yield Fault(shard=shard.name, key=key, code="patient_in_two_splits", message=message)


def _unknown_files(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    known = {shard.name for shard in manifest.shards} | {FILE_NAME, QUARANTINE_NAME}
    for path in sorted(folder.iterdir()):
        if path.name not in known and not KEPT_ASIDE.fullmatch(path.name):
            message = "the manifest does not know this file; a reader of *.tar would take it along"
            yield Fault(shard=shown(path.name), code="unknown_file", message=message)


def _file_faults(folder: Path, shard: Shard, image_format: str) -> Iterator[Fault]:
    path = folder / shard.name
    if not path.is_file():
        what = "not a plain file" if path.exists() else "the file is missing"
        yield Fault(shard=shard.name, code="missing", message=what)
        return
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                yield Fault(shard=shard.name, code="size", message=f"{size} bytes instead of {shard.bytes}")
            if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                yield Fault(shard=shard.name, code="sha256", message="the content is not what was written")
            yield from _member_faults(file.fileno(), shard, image_format)
    except OSError as error:
        yield Fault(shard=shard.name, code="missing", message=f"cannot be read: {error.strerror}")
    if len(shard.samples) != shard.num_samples:
        message = f"the manifest lists {len(shard.samples)} studies and counts {shard.num_samples}"
        yield Fault(shard=shard.name, code="count", message=message)


def _member_faults(file: int, shard: Shard, image_format: str) -> Iterator[Fault]:
    """What the tar's own headers say that the manifest does not, or that no tar of ours should hold."""
    expected = {
        (f"{sample.key}.{suffix}", *place): sample.key
        for sample in shard.samples
        for suffix, place in sample.members.items()
    }
    seen: set[str] = set()
    strangers = 0
    try:
        for member in walk(file):
            place = (member.name, member.offset, member.size)
            if member.plain and expected.pop(place, None) is not None:
                seen.add(member.name)
                continue
            strangers += 1
            if strangers <= _MAX_STRANGERS:
                yield from _stranger(member, shard, seen, image_format)
            seen.add(member.name)
    except DataError as error:
        yield Fault(shard=shard.name, code="not_a_tar", message=f"damaged: {error}")
        return
    if strangers > _MAX_STRANGERS:
        message = f"{strangers - _MAX_STRANGERS} members more that it should not have"
        yield Fault(shard=shard.name, code="unknown_member", message=message)
    for (name, _, _), key in expected.items():
        yield Fault(shard=shard.name, key=shown(key), code="member", message=f"{shown(name)} is missing or misplaced")


def _stranger(member: Member, shard: Shard, seen: set[str], image_format: str) -> Iterator[Fault]:
    name = shown(member.name)
    if member.name in seen:
        yield Fault(shard=shard.name, code="member_twice", message=f"{name} is there twice")
    code, message = member_fault(member, image_format) or (
        "unknown_member",
        f"{name} is not in the manifest, or not at this place",
    )
    yield Fault(shard=shard.name, code=code, message=message)
