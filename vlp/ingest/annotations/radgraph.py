"""RadGraph (PhysioNet): entities and relations of radiology reports, as sentences about findings.

Read: `MIMIC-CXR_graphs.json`, `CheXpert_graphs.json` (made by a program), `train.json`, `dev.json`, `test.json` (made
by radiologists; of the two readers of the test set the first).  An observation, the words that modify it and the place
it is located at become one sentence: "small" + "effusion" located at "left pleural" -> "There is pleural effusion of
the left pleural space.", with the span of those words in the report.  Suggestive-of relations are not used.

The largest file has 220,763 reports and would fill the memory of every worker process, so only the places of the
reports in it are kept; a report is read when its study comes.
"""

import json
import mmap
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vlp.errors import DataError
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.archives.rows import strongest
from vlp.ingest.tables import fingerprint
from vlp.records import Certainty, Sentence, Study
from vlp.reports import read
from vlp.reports.findings import sentence_text
from vlp.reports.sections import find_sections

NAMES = ("MIMIC-CXR_graphs.json", "CheXpert_graphs.json", "train.json", "dev.json", "test.json")
_ENTRY = re.compile(rb'"([^"\\]{1,300})"\s*:\s*(?=\{\s*"text"\s*:)')
_MIMIC = re.compile(r"s(\d+)\.txt")
_CHEXPERT = re.compile(r"(patient\d+)[/_](study\d+)")
_CERTAINTY = {
    "OBS-DP": Certainty.PRESENT,
    "OBS-DA": Certainty.ABSENT,
    "OBS-U": Certainty.UNCERTAIN,
    "Observation::definitely present": Certainty.PRESENT,
    "Observation::definitely absent": Certainty.ABSENT,
    "Observation::uncertain": Certainty.UNCERTAIN,
}
_START = {Certainty.PRESENT: "There is", Certainty.UNCERTAIN: "There may be", Certainty.ABSENT: "There is no"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Words of a report that RadGraph has marked; `first` and `last` count tokens of its text, both inclusive."""

    label: str
    first: int
    last: int
    relations: tuple[tuple[str, str], ...]
    """(kind, id of the other entity): this one modifies it, is located at it, or is suggestive of it."""

    @property
    def certainty(self) -> Certainty | None:
        """What the report says of an observation; None for anatomy."""
        return _CERTAINTY.get(self.label)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One observation: where its words stand among the tokens, and what is said of it."""

    certainty: Certainty
    observed: tuple[int, ...]
    """Tokens of the observation and of what modifies it, in their order."""
    place: tuple[int, ...]
    """Tokens of the anatomy it is located at, with what modifies it; empty where no place is named."""


class RadGraphAnnotation(Annotation):
    """RadGraph beside MIMIC-CXR or CheXpert; see the module's documentation."""

    kind: Literal["radgraph"] = "radgraph"
    path: Path
    """One of the files, or the folder that holds some of them."""
    sentences: Literal["add", "replace"] = "add"
    """Whether its sentences come beside those read from the report by rules, or instead of them where it has any."""
    facts: Literal["findings", "all"] = "findings"
    """Only facts about findings of the vocabulary, or all, the others in RadGraph's own words."""
    labels: Literal["keep", "complete"] = "keep"
    """Whether the study's labels stay as they are, or findings that it has no label of get the set's."""

    def apply(self, study: Study) -> Study:
        """The study with the sentences of its report's graph; unchanged where it has no report or no graph.

        Raises:
            DataError: for a missing or damaged file, and for a graph whose parts do not fit together.
        """
        if study.report is None:
            return study
        found = [(path, span) for path in self._paths() if (span := _index(path, _state(path)).get(study.id))]
        if not found:
            return study
        path, span = found[0]
        tokens, entities = _graph(path, span)
        made = [
            sentence
            for fact in facts_of(entities)
            for sentence in _sentences(fact, tokens, study.report.text)
            if sentence.finding is not None or self.facts == "all"
        ]
        before = study.sentences or read(study.report.text)
        known = {_key(sentence) for sentence in before} if self.sentences == "add" else set()
        new = {_key(sentence): sentence for sentence in made if _key(sentence) not in known}
        labels = dict(study.labels)
        if self.labels == "complete":
            labels = strongest({said.finding: said.certainty} for said in made if said.finding) | labels
        kept = before if self.sentences == "add" else ()
        return replace(study, sentences=(*kept, *new.values()) or before, labels=labels)

    def fingerprint(self) -> str:
        """SHA-256 of the files."""
        return fingerprint(self._paths())

    def _paths(self) -> list[Path]:
        if not self.path.is_dir():
            return [self.path]
        paths = [self.path / name for name in NAMES if (self.path / name).is_file()]
        if not paths:
            raise DataError(f"{self.path}: none of {', '.join(NAMES)} is here; is this the folder of RadGraph?")
        return paths


def facts_of(entities: Mapping[str, Entity]) -> Iterator[Fact]:
    """The observations that modify no other observation, each with its words and its place, in the text's order."""
    for id_, entity in sorted(entities.items(), key=lambda item: item[1].first):
        modified = [entities[other] for kind, other in entity.relations if kind == "modify"]
        if entity.certainty is None or any(other.certainty is not None for other in modified):
            continue
        places = [other for kind, other in entity.relations if kind == "located_at"]
        yield Fact(
            certainty=entity.certainty,
            observed=_tokens(_with_modifiers({id_}, entities)),
            place=_tokens(_with_modifiers(places, entities)),
        )


def _with_modifiers(ids: Sequence[str] | set[str], entities: Mapping[str, Entity]) -> list[Entity]:
    """The entities and all that modifies them, directly or not."""
    found = dict.fromkeys(ids)
    while more := [
        id_
        for id_, entity in entities.items()
        if id_ not in found and any(kind == "modify" and other in found for kind, other in entity.relations)
    ]:
        found |= dict.fromkeys(more)
    return [entities[id_] for id_ in found]


def _tokens(entities: Sequence[Entity]) -> tuple[int, ...]:
    return tuple(sorted({place for entity in entities for place in range(entity.first, entity.last + 1)}))


def _sentences(fact: Fact, tokens: Sequence[str], text: str) -> Iterator[Sentence]:
    """One sentence per finding the fact is about, or one about none, in its own words."""
    words = [tokens[place].lower() for place in fact.observed]
    if not fact.place:
        said = " ".join(words)
    elif fact.place[0] < fact.observed[-1]:  # "left pleural effusion": the place stands among the words
        said = " ".join(tokens[place].lower() for place in sorted({*fact.observed, *fact.place}))
    else:
        said = f"{' '.join(words)} in the {' '.join(tokens[place].lower() for place in fact.place)}"
    start, end, section = _span(fact, tokens, text)
    origin: Literal["report", "labels"] = "report" if end else "labels"
    understood = [sentence for sentence in read(f"There is {said}.") if sentence.finding is not None]
    for sentence in understood:
        assert sentence.finding is not None
        certainty = _combined(fact.certainty, sentence.certainty)
        if certainty is not None:
            yield replace(
                sentence,
                start=start,
                end=end,
                section=section,
                origin=origin,
                certainty=certainty,
                text=sentence_text(sentence.finding, certainty, location=sentence.location),
            )
    if not understood:
        yield Sentence(
            start=start,
            end=end,
            section=section,
            origin=origin,
            finding=None,
            certainty=fact.certainty,
            text=f"{_START[fact.certainty]} {said}.",
        )


def _combined(fact: Certainty, words: Certainty) -> Certainty | None:
    """The certainty of a finding whose words may deny it ("clear lungs"); None where a denial is denied."""
    if fact is Certainty.PRESENT:
        return words
    return fact if words is Certainty.PRESENT else None


def _span(fact: Fact, tokens: Sequence[str], text: str) -> tuple[int, int, str]:
    """(start, end, section) of the fact's words in the report as written; (0, 0, "labels") if they are not there.

    RadGraph's text is the report's with blanks around every token, so the words from the fact's first to its last
    token are looked for with any white space between them; of several places it is the one of the same rank.
    """
    first, last = min((*fact.observed, *fact.place)), max((*fact.observed, *fact.place))
    wanted = list(tokens[first : last + 1])
    rank = sum(list(tokens[at : at + len(wanted)]) == wanted for at in range(first))
    pattern = r"\s*".join(re.escape(token) for token in wanted)
    places = [match.span() for match in re.finditer(rf"(?<!\w){pattern}(?!\w)", text)]
    if not places:
        return 0, 0, "labels"
    start, end = places[min(rank, len(places) - 1)]
    name = next((part.name for part in find_sections(text) if part.start <= start < part.end), "report")
    return start, end, name


def _key(sentence: Sentence) -> tuple[object, ...]:
    """Sentences that say the same for training."""
    return sentence.finding, sentence.certainty, sentence.location, sentence.text


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _index(path: Path, state: tuple[int, int]) -> Mapping[str, tuple[int, int]]:
    """Study -> (start, end) of the bytes that hold its graph; `state` makes a changed file another entry."""
    places: list[tuple[str, int]] = []
    with _mapped(path) as content:
        if content[-4096:].rstrip()[-1:] != b"}":
            raise DataError(f"{path}: the file does not end as JSON does; is it cut off?")
        places.extend((match[1].decode("utf-8", "replace"), match.end()) for match in _ENTRY.finditer(content))
        ends = [*(start for _, start in places[1:]), len(content)]
    if not places:
        raise DataError(f"{path}: holds no graph of a report; is this a file of RadGraph?")
    named = [(_study_of(name), (start, end)) for (name, start), end in zip(places, ends, strict=True)]
    return {study: span for study, span in named if study is not None}


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # an empty file cannot be mapped
        raise DataError(f"{path}: cannot be read, or is empty") from None


def _study_of(name: str) -> str | None:
    """The study whose report the file calls "p18/p18004941/s58821758.txt" or ".../patient64541/study1/..."."""
    if mimic := _MIMIC.search(name):
        return mimic[1]
    chexpert = _CHEXPERT.search(name)
    return f"{chexpert[1]}_{chexpert[2]}" if chexpert else None


def _graph(path: Path, span: tuple[int, int]) -> tuple[list[str], dict[str, Entity]]:
    """The tokens and the entities of one report."""
    with path.open("rb") as file:
        file.seek(span[0])
        content = file.read(span[1] - span[0])
    try:
        values, _ = json.JSONDecoder().raw_decode(content.decode())
        tokens = values["text"].split()
        entities = {
            id_: Entity(
                label=entity["label"],
                first=int(entity["start_ix"]),
                last=int(entity["end_ix"]),
                relations=tuple((kind, other) for kind, other in entity["relations"]),
            )
            for id_, entity in _entities(values).items()
        }
        if any(not 0 <= entity.first <= entity.last < len(tokens) for entity in entities.values()):
            raise ValueError("outside the text")
        if any(other not in entities for entity in entities.values() for _, other in entity.relations):
            raise ValueError("no such entity")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise DataError(f"{path}: the graph of a report is damaged or has not RadGraph's form") from None
    return tokens, entities


def _entities(values: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = values["entities"] if "entities" in values else values["labeler_1"]["entities"]
    return found
