"""What a miniature of a real archive promises: the contract suite of sources reads nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A miniature archive in a folder: the layout and quirks of the real one, generated pixels, invented text."""

    source: Mapping[str, Any]
    """Values of the source's configuration, `kind` included."""
    studies: int
    """Studies that load."""
    persons: int
    faults: Mapping[str, int] = field(default_factory=dict)
    """Studies that do not, by fault code."""
    secrets: tuple[str, ...] = ()
    """Identifiers and words of reports that no message may show."""
