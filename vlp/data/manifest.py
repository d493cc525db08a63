"""`manifest.json`: what a folder of shards holds, and where in its tars every study lies."""

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
    faults: dict[str, Count] = Field(default_factory=dict)
    """Studies left out, by kind of fault."""
    shards: tuple[Shard, ...]

    @property
    def num_studies(self) -> int:
        """Studies in all splits."""
        return sum(shard.num_samples for shard in self.shards)

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
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{path}: not a manifest of shards: {place}: {fault['msg']}") from None


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Writes the manifest whole or not at all."""
    temporary = folder / f".{FILE_NAME}.partial"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json())
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / FILE_NAME)


def is_shard_folder(folder: Path) -> bool:
    """Whether `folder` is one that this program wrote and may therefore replace."""
    try:
        with (folder / FILE_NAME).open("rb") as file:
            return b'"format":"vlp-shards"' in file.read(64)
    except OSError:
        return False
