"""The rules of this package as a reader: no model, thousands of reports a second, the default."""

from typing import Literal

from vlp.config import Config
from vlp.reports.reader import Reading, read_report


class RulesReaderConfig(Config):
    """Read by the rules and vocabulary of `vlp.reports`."""

    kind: Literal["rules"] = "rules"

    def build(self) -> "RulesReader":
        """The reader."""
        return RulesReader()


class RulesReader:
    """`vlp.reports.reader.read_report` as a reader."""

    name = "rules"

    def read(self, text: str, *, language: str | None = None) -> Reading:
        """The statements of one report."""
        return read_report(text, language=language)
