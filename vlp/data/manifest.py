"""`manifest.json`: what a folder of shards holds, and where in its tars every study lies."""

import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.data.schema import Count
from vlp.errors import DataError
from vlp.records import FRONTAL, Certainty, Split, View

FILE_NAME = "manifest.json"
QUARANTINE_NAME = "quarantine.jsonl"
"""Beside the manifest where studies were refused: one line each says why."""
SHARD_NAME = r"(train|val|test)-\d{6}\.tar"
"""What shards are called, as a regular expression."""
CODE_VERSION = importlib.metadata.version("vlp")
"""Version of the installed package; `import vlp` for it would point up the layers."""
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Sample(Config):
    """Where one study lies in its tar, and the few facts an epoch is planned by."""

    key: str
    patient: str
    views: tuple[View, ...]
    sentences: Count
    members: dict[str, tuple[Count, Count]]
    """What follows the key and a dot -> (offset in the tar, bytes)."""

    @property
    def frontal(self) -> tuple[int, ...]:
        """Indices of the study's frontal images."""
        return tuple(index for index, view in enumerate(self.views) if view in FRONTAL)


class Shard(Config):
    """One tar."""

    name: Annotated[str, Field(pattern=rf"^{SHARD_NAME}$")]
    """Never a path: a manifest cannot make a reader look elsewhere."""
    split: Split
    bytes: Count
    sha256: str
    num_samples: Count
    samples: tuple[Sample, ...]


class SplitCounts(Config):
    """How much of everything one split holds."""

    studies: Count = 0
    images: Count = 0
    patients: Count = 0
    sentences: Count = 0
    without_sentences: Count = 0
    """Studies training cannot use."""
    findings: dict[str, dict[Certainty, Count]] = Field(default_factory=dict)
    """Finding -> certainty -> studies labelled so."""


class Manifest(Config):
    """What a folder of shards says about itself.  Written last, so a folder that has one is complete."""

    format: Literal["vlp-shards"] = "vlp-shards"
    schema_version: Literal[1] = 1
    vlp_version: str
    recipe: dict[str, Any] = Field(default_factory=dict)
    """The configuration the shards were made by."""
    source_fingerprint: str = ""
    image_format: Literal["jpg", "png"]
    synthetic: bool = False
    """Whether any study was drawn by a program."""
    splits: dict[Split, SplitCounts] = Field(default_factory=dict)
    labels_origin: dict[str, Count] = Field(default_factory=dict)
    """Studies by where their labels come from: the source, the report, nowhere."""
    sentences_origin: dict[str, Count] = Field(default_factory=dict)
    """Sentences by where they come from: a report, or the labels of the source."""
    licenses: dict[str, Count] = Field(default_factory=dict)
    """Studies by licence."""
    read: Count | None = None
    """Studies the archive gave, be they usable or not; None where nobody counted."""
    faults: dict[str, Count] = Field(default_factory=dict)
    """Studies refused, by kind of fault."""
    left_out: dict[str, Count] = Field(default_factory=dict)
    """Studies that a rule of the recipe leaves out, by rule; they are nobody's fault."""
    privacy: dict[str, Count] = Field(default_factory=dict)
    """What a look for identifying text found: studies looked at, studies and places with something in them."""
    part: str | None = None
    """E.g. "3/16" where the folder holds one part of an archive and waits to be merged."""
    shards: tuple[Shard, ...]

    @property
    def num_studies(self) -> int:
        """Studies in all splits."""
        return sum(shard.num_samples for shard in self.shards)

    def adds_up(self) -> bool:
        """Whether every study that was read was written, refused or left out."""
        elsewhere = sum(self.faults.values()) + sum(self.left_out.values())
        return self.read is None or self.read == self.num_studies + elsewhere

    def summary(self) -> dict[str, Any]:
        """Everything but the index of samples, as plain values; shards with size and checksum."""
        values: dict[str, Any] = self.model_dump(mode="json", exclude={"shards"})
        values["shards"] = [shard.model_dump(mode="json", exclude={"samples"}) for shard in self.shards]
        return values

    def patients(self, split: Split) -> frozenset[str]:
        """Pseudonyms of the persons in one split."""
        return frozenset(sample.patient for shard in self.shards if shard.split == split for sample in shard.samples)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        DataError: if there is none or it is not one of ours.
    """
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{folder}: not a folder of shards: {FILE_NAME}: {error.strerror}; run vlp ingest first"
        ) from None
    return parse_manifest(content, where=str(path))


def parse_manifest(content: bytes, *, where: str) -> Manifest:
    """The manifest that `content` is; `where` names its place in error messages.

    Raises:
        DataError: if it is not one of ours.
    """
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{where}: not a manifest of shards: {place}: {fault['msg']}") from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes the manifest whole or not at all."""
    write_whole(folder / FILE_NAME, manifest.model_dump_json().encode() + b"\n")


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: under another name first, on the disk before it gets its own."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def is_shard_folder(folder: Path) -> bool:
    """Whether `folder` is one that this program wrote and may therefore replace."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            return b'"format":"vlp-shards"' in file.read(64)
    except OSError:
        return False


def shards_digest(folder: Path) -> str:
    """SHA-256 of the manifest of a folder, which in turn names the SHA-256 of every shard."""
    return hashlib.sha256((folder / FILE_NAME).read_bytes()).hexdigest()
