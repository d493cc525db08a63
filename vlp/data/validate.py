"""Everything that can be wrong with a folder of shards, found before training finds it."""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlp import log
from vlp.data.manifest import FILE_NAME, Manifest, Sample, Shard, read_manifest
from vlp.data.reader import ShardReader
from vlp.data.schema import SampleJson
from vlp.errors import DataError
from vlp.records import Split

Place = tuple[str, int, int]
"""A tar member: (name, offset of its content, bytes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong."""

    shard: str
    """Name of the file it was found in."""
    code: str
    """A short name for the kind of fault, e.g. "sha256"."""
    message: str
    key: str | None = None
    """Key of the study, where it concerns one."""


def check(folder: Path | str) -> list[Fault]:
    """Reads everything and lists what is wrong; an empty list means the shards are as they were written.

    Per shard: present, size, SHA-256, members as the manifest says and nothing else.  Per study: a key without dots,
    a description of this schema, sentences whose spans lie in the text, images that decode to their size.
    Over all: no key twice, no patient in two splits.

    Raises:
        DataError: if the folder has no readable manifest.
    """
    root = Path(folder)
    manifest = read_manifest(root)
    faults = list(_over_all(manifest))
    faults.extend(_unknown_files(root, manifest))
    reader = ShardReader(root, manifest)
    for shard in log.progress(manifest.shards, description="checking", unit="shards"):
        found = list(_check_file(root, shard))
        if not any(fault.code in ("missing", "not_a_tar") for fault in found):
            found.extend(fault for sample in shard.samples for fault in _check_sample(reader, shard, sample))
        faults.extend(found)
    reader.close()
    return faults


def _over_all(manifest: Manifest) -> Iterator[Fault]:
    seen: set[str] = set()
    split_of: dict[str, Split] = {}
    for shard in manifest.shards:
        for sample in shard.samples:
            if sample.key in seen:
                yield Fault(shard=shard.name, key=sample.key, code="key_twice", message="this key was used before")
            seen.add(sample.key)
            first = split_of.setdefault(sample.patient, shard.split)
            if first != shard.split:
                message = f"its patient is also in split {first}"
                yield Fault(shard=shard.name, key=sample.key, code="patient_in_two_splits", message=message)


def _unknown_files(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    known = {shard.name for shard in manifest.shards} | {FILE_NAME}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            message = "the manifest does not know this file; a reader of *.tar would take it along"
            yield Fault(shard=path.name, code="unknown_file", message=message)


def _check_file(folder: Path, shard: Shard) -> Iterator[Fault]:
    path = folder / shard.name
    if not path.is_file():
        yield Fault(shard=shard.name, code="missing", message="the file is missing")
        return
    size = path.stat().st_size
    if size != shard.bytes:
        yield Fault(shard=shard.name, code="size", message=f"{size} bytes instead of {shard.bytes}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            yield Fault(shard=shard.name, code="sha256", message="the content is not what was written")
    if len(shard.samples) != shard.num_samples:
        message = f"the manifest lists {len(shard.samples)} studies and counts {shard.num_samples}"
        yield Fault(shard=shard.name, code="count", message=message)
    yield from _check_members(path, shard)


def _check_members(path: Path, shard: Shard) -> Iterator[Fault]:
    expected = {
        (f"{sample.key}.{suffix}", *place) for sample in shard.samples for suffix, place in sample.members.items()
    }
    try:
        members = _members(path)
    except tarfile.TarError:
        yield Fault(shard=shard.name, code="not_a_tar", message="damaged: not a readable tar")
        return
    names = [name for name, _, _ in members]
    for name in sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        yield Fault(shard=shard.name, key=name.split(".")[0], code="member_twice", message=f"{name} is there twice")
    yield from _differences(shard, expected, set(members))


def _members(path: Path) -> list[Place]:
    """What the tar's own headers say; nothing is unpacked."""
    with tarfile.open(path, "r:") as tar:
        return [(member.name, member.offset_data, member.size if member.isreg() else -1) for member in tar]


def _differences(shard: Shard, expected: Iterable[Place], found: Iterable[Place]) -> Iterator[Fault]:
    wanted, there = set(expected), set(found)
    for name, _, _ in sorted(wanted - there):
        yield Fault(shard=shard.name, key=name.split(".")[0], code="member", message=f"{name} is missing or misplaced")
    for name, _, size in sorted(there - wanted):
        what = "is not a plain file" if size < 0 else "is not in the manifest, or not at this place"
        yield Fault(shard=shard.name, key=name.split(".")[0], code="unknown_member", message=f"{name} {what}")


def _check_sample(reader: ShardReader, shard: Shard, sample: Sample) -> Iterator[Fault]:
    if "." in sample.key or "/" in sample.key:
        yield Fault(shard=shard.name, key=sample.key, code="key", message="a key must hold neither dots nor slashes")
    try:
        json = reader.sample_json(sample.key)
        text = reader.text(sample.key)
    except DataError as error:
        yield Fault(shard=shard.name, key=sample.key, code="sample", message=str(error))
        return
    for code, message in (*_contradictions(sample, json, shard.split), *_bad_spans(json, text)):
        yield Fault(shard=shard.name, key=sample.key, code=code, message=message)
    for index, image in enumerate(json.images):
        try:
            shape = reader.image(sample.key, index).shape
        except DataError as error:
            yield Fault(shard=shard.name, key=sample.key, code="image", message=str(error))
            continue
        if shape != (image.rows, image.columns):
            message = f"image {index} has {shape[0]} x {shape[1]} pixels, not {image.rows} x {image.columns}"
            yield Fault(shard=shard.name, key=sample.key, code="image_size", message=message)


def _contradictions(sample: Sample, json: SampleJson, split: Split) -> Iterator[tuple[str, str]]:
    said = (json.key, json.person.id, tuple(image.view for image in json.images), len(json.sentences), json.split)
    if said != (sample.key, sample.patient, sample.views, sample.sentences, split):
        yield "sample", "the study's own description contradicts the manifest"
    images = {image.id for image in json.images}
    if any(region.image not in images for region in json.regions):
        yield "region", "a region lies in an image that the study does not have"


def _bad_spans(json: SampleJson, text: str) -> Iterator[tuple[str, str]]:
    bad = sum(
        sentence.origin == "report" and not 0 <= sentence.start < sentence.end <= len(text)
        for sentence in json.sentences
    )
    if bad:
        yield "span", f"{bad} sentences point outside the text"
