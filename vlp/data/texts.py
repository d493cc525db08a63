"""The texts a study is trained on, what they state, and how the texts of a batch are packed."""

import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from vlp.data.reader import ShardReader
from vlp.data.schema import SCHEMA_VERSION, SentenceJson, TextOrigin
from vlp.data.statements import Fact, statements
from vlp.data.tokens import Tokenizer
from vlp.records import Certainty, Report, Sentence, Study

Texts = Literal["template", "written", "both", "report"]
Facts = Mapping[str, Fact | None]
"""Texts in order, each with the fact it states; None where it states none, or several."""
Saying: TypeAlias = tuple[str, Fact | None]
"""A text and what it states."""
_KNOWN_SENTENCES = 200_000
"""Reports repeat themselves: so many distinct sentences are remembered, checked and in their final form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a `Study` says, and nothing else of it: all that training reads of its file, in a tenth of the time."""

    sentences: Sequence[SentenceJson]
    labels: Mapping[str, Certainty]
    report: Report | None


Teller: TypeAlias = Study | Told
"""Something that says what a study says."""


def told(reader: ShardReader, key: str) -> Told:
    """What a study in a shard says.

    Raises:
        DataError: if the study's files are not what the schema asks for.
    """
    try:
        found = _ToldJson.model_validate_json(reader.member(key, "json"))
    except ValidationError:
        reader.sample_json(key)  # which says what is wrong
        raise
    report = Report(text=reader.text(key)) if found.text_origin == "report" else None
    return Told(sentences=found.sentences, labels=found.labels, report=report)


def templates(reader: ShardReader, key: str) -> tuple[Saying, ...]:
    """What the sentences of a study in a shard say in template words, in order, repetitions included.

    The same as `sampled_texts` and `known_texts` make of the study for texts "template", before either drops
    repetitions, but a sentence that was seen before is not checked again.

    Raises:
        DataError: if the study's file is not what the schema asks for.
    """
    return tuple([_SAYINGS[words] for words in _read_templates(reader, key)])


class TemplateMemory:
    """`templates` of studies, each read once: by this process or by any of those that it forks.

    For every sentence of a split there is a number in shared memory, the hash of what it says, which forked processes
    compute alike; what a number stands for is learned by every process for itself.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        """Takes how many sentences each study has; where those are too many to remember, nothing is."""
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._counts = tuple(counts)
        total = 8 * int(sum(counts))
        self._hashes = np.frombuffer(mmap.mmap(-1, max(8, total if total <= _MEMORY_BYTES else 0)), dtype=np.int64)
        self._said: dict[int, Saying] = {}

    def get(self, reader: ShardReader, key: str, number: int) -> tuple[Saying, ...]:
        """`templates` of the study with this key, which is the one of this number.

        Raises:
            DataError: as `templates` does.
        """
        end = int(self._ends[number])
        row = self._hashes[end - self._counts[number] : end]
        try:
            return tuple([self._said[code] for code in row.tolist()]) if len(row) else templates(reader, key)
        except KeyError:
            words = _read_templates(reader, key)
        sayings = tuple([_SAYINGS[each] for each in words])
        if len(row) == len(words):
            codes = [hash(each) or 1 for each in words]  # 0: not read yet
            if len(self._said) < _KNOWN_SENTENCES:
                self._said.update(zip(codes, sayings, strict=True))
            row[:] = codes
        return sayings

    def __getstate__(self) -> dict[str, Any]:
        return {"counts": self._counts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TemplateMemory.__init__(self, state["counts"])  # not forked: hashes differ and nothing is shared


_MEMORY_BYTES = 256 << 20
"""Most memory that numbers of sentences may take: four million studies of eight."""
_SAYINGS: dict[tuple[Any, ...], Saying] = {}
"""Sentences as they stand in files -> checked."""


def _read_templates(reader: ShardReader, key: str) -> list[tuple[Any, ...]]:
    """The words of a study's sentences, each a key of `_SAYINGS`."""
    if len(_SAYINGS) >= _KNOWN_SENTENCES:
        _SAYINGS.clear()
    try:
        study = from_json(reader.member(key, "json"))
        if study["schema_version"] != SCHEMA_VERSION:
            raise ValueError
        return [_checked(sentence) for sentence in study.get("sentences", ())]
    except (ValueError, LookupError, TypeError, AttributeError):
        reader.sample_json(key)  # which says what is wrong
        raise


def _checked(sentence: Any) -> tuple[Any, ...]:
    words = sentence["text"], sentence.get("finding"), sentence["certainty"], sentence.get("location")
    if words not in _SAYINGS:
        found = SentenceJson.model_validate_json(to_json(sentence))
        _SAYINGS[words] = found.text, Fact.of(found)
    return words


class _ToldJson(BaseModel):
    """The part of a `SampleJson` that `Told` needs."""

    model_config = ConfigDict(strict=True, extra="ignore")

    schema_version: Literal[1]
    text_origin: TextOrigin
    sentences: tuple[SentenceJson, ...] = ()
    labels: dict[str, Certainty] = Field(default_factory=dict)


def sentence_texts(
    study: Teller, sentence: Sentence | SentenceJson, texts: Literal["template", "written", "both"]
) -> tuple[str, ...]:
    """The texts one sentence is trained on; sentences made from labels have no words of their own."""
    if texts == "template":
        return (sentence.text,)
    written = ""
    if study.report is not None and sentence.origin == "report":
        written = " ".join(study.report.text[sentence.start : sentence.end].split())
    if not written:
        return (sentence.text,)
    return (written,) if texts == "written" else (sentence.text, written)


def report_text(study: Teller) -> str:
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


def sampled_texts(study: Teller, sentences: Sequence[Sentence | SentenceJson], texts: Texts) -> Facts:
    """The distinct texts that `sentences` of the study are trained on; the whole report is one text without a fact."""
    if texts == "report":
        whole = report_text(study)
        return {whole: None} if whole else {}
    return agreed((text, Fact.of(said)) for said in sentences for text in sentence_texts(study, said, texts))


def known_texts(study: Teller, texts: Texts) -> tuple[Saying, ...]:
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
        self._said: list[Saying] = []
        self._sentence: list[int] = []
        self._owner: list[int] = []
        self._flipped: list[bool] = []
        self._known: list[Saying] = []
        self._known_study: list[int] = []

    def add(self, number: int, texts: Facts, *, flips: Facts, known: Sequence[Saying]) -> None:
        """Takes what study `number` of the batch says: its texts, flipped ones, and all that is known of it."""
        rows = self._rows
        for flipped, facts in ((False, texts), (True, flips)):
            self._sentence.extend([rows.setdefault(text, len(rows)) for text in facts])
            self._owner.extend([number] * len(facts))
            self._flipped.extend([flipped] * len(facts))
            self._said.extend(facts.items())
        self._known.extend(known)
        self._known_study.extend([number] * len(known))

    def tensors(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """The fields of a `Batch` that are about texts."""
        return {
            "tokens": tokenizer(tuple(self._rows)),
            "sentence": torch.from_numpy(np.array(self._sentence, dtype=np.int64)),
            "owner": torch.from_numpy(np.array(self._owner, dtype=np.int64)),
            "flipped": torch.from_numpy(np.array(self._flipped, dtype=bool)),
            "said": statements(agreed(self._said).items()),
            "known": statements(self._known),
            "known_study": torch.from_numpy(np.array(self._known_study, dtype=np.int64)),
        }


def agreed(said: Iterable[Saying]) -> dict[str, Fact | None]:
    """The distinct texts, in order of their first mention; one that is said to state different things states none."""
    facts: dict[str, Fact | None] = {}
    for text, fact in said:
        if facts.setdefault(text, fact) is not fact and facts[text] != fact:
            facts[text] = None
    return facts
