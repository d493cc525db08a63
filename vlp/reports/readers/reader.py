"""What every reader of reports is: text in, statements with spans out, nothing lost without being counted."""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from types import MappingProxyType, ModuleType
from typing import Protocol

from vlp.errors import BackendError
from vlp.reports.language import detect_language, is_foreign
from vlp.reports.reader import Heard, Reading, Statement, own_words, read_report, settle
from vlp.reports.sections import find_sections
from vlp.reports.sentences import Span, find_sentences


class Reader(Protocol):
    """Reads reports one at a time; the same text gives the same reading."""

    @property
    def name(self) -> str:
        """Which reader it is, for manifests: "rules", "openai:<model>" ..."""

    def read(self, text: str, *, language: str | None = None) -> Reading:
        """The statements of one report; see `vlp.reports.reader.read_report` for what every reader keeps to.

        Raises:
            BackendError: the library, server or weights it needs are not there, or do not answer.
            DataError: this report was answered with nothing that can be used.
        """


Answer = tuple[Sequence[Sequence[Statement]], Counter[str]]
"""Per written sentence what it states, and what was said of them that could not be used, by reason."""


def read_by_sentence(text: str, answer: Callable[[Sequence[str]], Answer], *, language: str | None = None) -> Reading:
    """A reading made of statements about single sentences, split and put together as the rules do it.

    Sections, spans, boilerplate, own words and the settling of contradictions are the rules'; `answer` gets the written
    sentences and says what they state.  A report in another language than English is not shown to it: the models of
    this package read English alone.
    """
    language = language or detect_language(text)
    if is_foreign(language):
        return read_report(text, language=language)
    spans = find_sentences(text, find_sections(text))
    written = [text[span.start : span.end] for span in spans]
    said, unusable = answer(written)
    heard = [_heard(span, words, tuple(one)) for span, words, one in zip(spans, written, said, strict=True)]
    reading = settle(heard, language=language)
    left_out = Counter(reading.left_out) + unusable
    return Reading(sentences=reading.sentences, language=language, left_out=MappingProxyType(dict(left_out)))


def _heard(span: Span, written: str, statements: tuple[Statement, ...]) -> Heard:
    return Heard(span, statements, *own_words(written))


def load_package(module: str, *, package: str, reader: str) -> ModuleType:
    """The module of an optional package.

    Raises:
        BackendError: it is not installed, or does not start.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = getattr(error, "name", None) or package
        raise BackendError(
            f"the report reader {reader!r} needs the package {package!r} ({missing} is missing): pip install {package}"
        ) from None
