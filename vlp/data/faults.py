"""One thing that is wrong with a folder of shards, and how names that strangers chose are shown."""

from dataclasses import dataclass

_SHOWN_CHARACTERS = 100


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


def shown(name: str) -> str:
    """A name from a file, fit for a terminal and a log: one line, no control characters, not too long."""
    plain = name.encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= _SHOWN_CHARACTERS else plain[:_SHOWN_CHARACTERS] + "..."
