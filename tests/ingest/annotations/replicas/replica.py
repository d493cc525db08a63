"""What a miniature set of annotations promises: the contract suite of annotations reads nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlp.records import Certainty, Region, Study


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationReplica:
    """A miniature set in a folder, and studies of the archive it was made for, as that archive gives them."""

    values: Mapping[str, Any]
    """Values of the annotation's configuration, `kind` included."""
    studies: tuple[Study, ...]
    """Studies before; at least one the set knows and one it does not."""
    regions: Mapping[str, tuple[Region, ...]] = field(default_factory=dict)
    """Study id -> the regions the set adds; a study that is not named gets none."""
    labels: Mapping[str, Mapping[str, Certainty]] = field(default_factory=dict)
    """Study id -> its labels afterwards; a study that is not named keeps its own."""
    sentences: Mapping[str, int] = field(default_factory=dict)
    """Study id -> how many sentences it has afterwards; a study that is not named keeps its own."""
    refused: tuple[str, ...] = ()
    """Ids of studies of which the set says something that cannot be so (a box outside its image)."""
    secrets: tuple[str, ...] = ()
    """Identifiers and words of reports that no message may show."""
