"""What every archive looks like to the pipeline: units of work that load to studies with pixels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlp.config import Config
from vlp.records import LoadedStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFault:
    """One study that could not be loaded; the others of its unit are unharmed."""

    code: str
    """A short name for the kind of fault, e.g. "unreadable_image"; faults are counted by it."""
    message: str
    """What was wrong and where in the archive (a line, a file the person gave), never whose study it was."""


LUNGS = "lungs"
"""What regions of lung fields are called; not a finding of the vocabulary."""


class Source(Config, ABC):
    """An archive.  Subclasses add `kind: Literal[...] = ...`, the name configurations choose them by.

    A source is a configuration, so it travels to worker processes as it is.  It must be deterministic: the same
    configuration and files give the same studies in the same order.
    """

    synthetic: ClassVar[bool] = False
    """Whether every study of this kind of source is drawn by a program rather than taken from a person."""

    @property
    def name(self) -> str:
        """What the archive is called in messages and manifests: its folder as it was given, or its kind."""
        return str(getattr(self, "path", None) or getattr(self, "kind", type(self).__name__))

    @abstractmethod
    def units(self) -> Sequence[str]:
        """Names of the pieces that can be loaded independently of each other (e.g. persons); cheap.

        Raises:
            DataError: if the archive is missing, empty or not of this kind.
        """

    @abstractmethod
    def load(self, unit: str) -> Iterator[LoadedStudy | StudyFault]:
        """The studies of one unit, each with its pixels, or the fault that kept it from loading.

        Raises:
            DataError: if nothing of the unit can be read; the pipeline counts it as one fault.
        """

    def fingerprint(self) -> str:
        """Changes when the archive's own table of contents does; "" where the configuration says it all."""
        return ""
