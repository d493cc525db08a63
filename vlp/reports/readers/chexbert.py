"""CheXbert (Smit 2020) as a reader, where the package `f1chexbert` and its weights are there.

CheXbert says of a text which of CheXpert's findings it affirms, denies or leaves open, and not where.  It is asked
about each sentence; the place of a finding is what the rules read in that sentence.  "No Finding" is left to the rules
too: of one harmless sentence CheXbert says it as of a whole normal report.

The package loads its weights with `torch.load` and without `weights_only`: trust where they come from.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

from vlp.config import Config
from vlp.errors import BackendError
from vlp.records import Certainty
from vlp.reports.findings import NO_FINDING, canonical
from vlp.reports.reader import Reading, Statement, find_statements
from vlp.reports.readers.reader import Answer, load_package, read_by_sentence

_CERTAINTY = {1: Certainty.PRESENT, 0: Certainty.ABSENT, -1: Certainty.UNCERTAIN}


class ChexbertReaderConfig(Config):
    """Read by CheXbert; needs the package `f1chexbert`."""

    kind: Literal["chexbert"] = "chexbert"
    device: Literal["cpu", "cuda"] = "cpu"

    def build(self) -> "ChexbertReader":
        """The reader.

        Raises:
            BackendError: the package is not installed.
        """
        load_package("f1chexbert", package="f1chexbert", reader=self.kind)
        return ChexbertReader(self)


class ChexbertReader:
    """Asks CheXbert about each sentence."""

    name = "chexbert"

    def __init__(self, config: ChexbertReaderConfig) -> None:
        self._config = config

    def read(self, text: str, *, language: str | None = None) -> Reading:
        """The statements of one report.

        Raises:
            BackendError: the weights cannot be loaded.
        """
        return read_by_sentence(text, self._answer, language=language)

    @cached_property
    def _model(self) -> Any:
        package = load_package("f1chexbert", package="f1chexbert", reader="chexbert")
        try:
            return package.F1CheXbert(device=self._config.device)
        except Exception as error:  # whatever the package or its download raises
            raise BackendError(
                f"f1chexbert: the weights of CheXbert cannot be loaded ({type(error).__name__}); "
                "it downloads them on first use"
            ) from None

    def _answer(self, sentences: Sequence[str]) -> Answer:
        return [self._statements(sentence) for sentence in sentences], Counter()

    def _statements(self, sentence: str) -> list[Statement]:
        values = self._model.get_label(" ".join(sentence.split()), mode="classification")
        read, _ = find_statements(sentence)
        said = [one for one in read if one.finding == NO_FINDING]
        for label, value in zip(self._model.target_names, values, strict=True):
            finding = canonical(label)
            if finding not in {None, NO_FINDING} and value in _CERTAINTY and value != "":
                said.extend(_placed(Statement(finding=str(finding), certainty=_CERTAINTY[value]), read))
        return said


def _placed(statement: Statement, read: Sequence[Statement]) -> list[Statement]:
    """The statement at each place where the rules read its finding."""
    places = [one for one in read if one.finding == statement.finding and one.location]
    severity = {one.severity for one in read if one.finding == statement.finding}
    degree = next(iter(severity), None) if statement.certainty is not Certainty.ABSENT else None
    return [replace(statement, location=one.location, severity=degree and one.severity) for one in places] or [
        replace(statement, severity=degree)
    ]
