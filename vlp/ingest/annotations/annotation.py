"""What every set of annotations looks like to the pipeline: it adds to studies that an archive has given."""

from abc import ABC, abstractmethod

from vlp.config import Config
from vlp.records import Study


class Annotation(Config, ABC):
    """A set of annotations made for an archive's studies.  Subclasses add `kind: Literal[...] = ...`.

    Like a source it is a configuration, travels to worker processes as it is, and must be deterministic.
    """

    @abstractmethod
    def apply(self, study: Study) -> Study:
        """The study with what the set knows of it (regions, labels, sentences); the same study where it knows nothing.

        Raises:
            DataError: if the set is missing or not of this kind, or what it says of the study cannot be so
                (a box outside its image); the pipeline counts it as a fault of the study.
        """

    def fingerprint(self) -> str:
        """Changes when the files of the set do; "" where the configuration says it all."""
        return ""
