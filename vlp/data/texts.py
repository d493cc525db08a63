"""The texts a study is trained on, what they state, and how the texts of a batch are packed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from vlp.data.statements import Fact, statements
from vlp.data.tokens import Tokenizer
from vlp.records import Sentence, Study

Texts = Literal["template", "written", "both", "report"]
Facts = Mapping[str, Fact | None]
"""Texts in order, each with the fact it states; None where it states none, or several."""


def sentence_texts(study: Study, sentence: Sentence, texts: Literal["template", "written", "both"]) -> tuple[str, ...]:
    """The texts one sentence is trained on; sentences made from labels have no words of their own."""
    written = ""
    if study.report is not None and sentence.origin == "report":
        written = " ".join(study.report.text[sentence.start : sentence.end].split())
    if texts == "template" or not written:
        return (sentence.text,)
    return (written,) if texts == "written" else (sentence.text, written)


def report_text(study: Study) -> str:
    """Findings and impression in one line, every sentence as written and where it stood.

    Headings and the sections that state nothing about the study (indication, technique ...) are left out.  A study
    without a report gives its sentences as they are.
    """
    # A sentence that states several findings is there several times, with one span.
    texts = {
        (sentence.start, sentence.end, text): text
        for sentence in study.sentences
        for text in sentence_texts(study, sentence, "written")
    }
    return " ".join(texts.values())


def sampled_texts(study: Study, sentences: Sequence[Sentence], texts: Texts) -> Facts:
    """The distinct texts that `sentences` of the study are trained on; the whole report is one text without a fact."""
    if texts == "report":
        whole = report_text(study)
        return {whole: None} if whole else {}
    return _agreed((text, Fact.of(said)) for said in sentences for text in sentence_texts(study, said, texts))


def known_texts(study: Study, texts: Texts) -> tuple[tuple[str, Fact | None], ...]:
    """Everything the study says, in every form that texts of this kind have, each with every fact it states.

    The templates are always among it: they carry the facts.  A sentence in its template's words and in its own is
    two texts and one fact; a written sentence that states two findings is there twice.
    """
    forms: Literal["template", "both"] = "both" if texts in {"written", "both"} else "template"
    known = [(text, Fact.of(said)) for said in study.sentences for text in sentence_texts(study, said, forms)]
    reports = sampled_texts(study, (), "report").items() if texts == "report" else ()
    return tuple(dict.fromkeys((*known, *reports)))


class Packing:
    """The texts of a batch while it is put together: each distinct one becomes one row of tokens."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._said: list[tuple[str, Fact | None]] = []
        self._sentence: list[int] = []
        self._owner: list[int] = []
        self._flipped: list[bool] = []
        self._known: list[tuple[str, Fact | None]] = []
        self._known_study: list[int] = []

    def add(self, number: int, texts: Facts, *, flips: Facts, known: Sequence[tuple[str, Fact | None]]) -> None:
        """Takes what study `number` of the batch says: its texts, flipped ones, and all that is known of it."""
        for flipped, facts in ((False, texts), (True, flips)):
            for text, fact in facts.items():
                self._sentence.append(self._rows.setdefault(text, len(self._rows)))
                self._owner.append(number)
                self._flipped.append(flipped)
                self._said.append((text, fact))
        self._known.extend(known)
        self._known_study.extend([number] * len(known))

    def tensors(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The fields of a `Batch` that are about texts."""
        return {
            "tokens": tokenizer(tuple(self._rows)),
            "sentence": torch.tensor(self._sentence, dtype=torch.int64),
            "owner": torch.tensor(self._owner, dtype=torch.int64),
            "flipped": torch.tensor(self._flipped, dtype=torch.bool),
            "said": statements(_agreed(self._said).items()),
            "known": statements(self._known),
            "known_study": torch.tensor(self._known_study, dtype=torch.int64),
        }


def _agreed(said: Iterable[tuple[str, Fact | None]]) -> dict[str, Fact | None]:
    """The distinct texts, in order of their first mention; one that is said to state different things states none."""
    facts: dict[str, Fact | None] = {}
    for text, fact in said:
        facts[text] = fact if facts.get(text, fact) == fact else None
    return facts
