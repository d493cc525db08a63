"""RadGraph (Jain 2021; RadGraph-XL, Delbrouck 2024) as a reader, where the package `radgraph` and its weights are.

RadGraph says how sure a report is of an observation and which anatomy it belongs to; which finding its words name is
looked up in the vocabulary.  Its weights are downloaded by the package itself on first use.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from vlp.config import Config
from vlp.errors import BackendError
from vlp.records import Certainty
from vlp.reports.certainty import Mention
from vlp.reports.findings import VOCABULARY, canonical
from vlp.reports.locations import find_places, find_severity
from vlp.reports.phrases import Word, find_words
from vlp.reports.reader import Reading, Statement, find_mentions
from vlp.reports.readers.reader import Answer, load_package, read_by_sentence

_CERTAINTY = {
    "definitely present": Certainty.PRESENT,
    "definitely absent": Certainty.ABSENT,
    "uncertain": Certainty.UNCERTAIN,
}
_OPPOSITE = {Certainty.PRESENT: Certainty.ABSENT, Certainty.ABSENT: Certainty.PRESENT}
UNKNOWN = "model: no finding of the vocabulary"
UNANSWERED = "model: no answer to a sentence"


class RadgraphReaderConfig(Config):
    """Read by RadGraph; needs the package `radgraph`."""

    kind: Literal["radgraph"] = "radgraph"
    model: Literal["radgraph", "radgraph-xl", "modern-radgraph-xl"] = "radgraph-xl"
    device: Literal["cpu", "cuda"] = "cpu"
    weights: Path | None = None
    """Folder the package keeps its weights in; null leaves that to it."""

    def build(self) -> "RadgraphReader":
        """The reader.

        Raises:
            BackendError: the package is not installed.
        """
        load_package("radgraph", package="radgraph", reader=self.kind)
        return RadgraphReader(self)


class RadgraphReader:
    """Asks RadGraph about each sentence."""

    def __init__(self, config: RadgraphReaderConfig) -> None:
        self._config = config

    @property
    def name(self) -> str:
        """The model."""
        return f"radgraph:{self._config.model}"

    def read(self, text: str, *, language: str | None = None) -> Reading:
        """The statements of one report.

        Raises:
            BackendError: the weights cannot be loaded.
        """
        return read_by_sentence(text, self._answer, language=language)

    @cached_property
    def _model(self) -> Any:
        package = load_package("radgraph", package="radgraph", reader="radgraph")
        folder = {"model_cache_dir": str(self._config.weights)} if self._config.weights else {}
        try:
            cuda = 0 if self._config.device == "cuda" else -1
            return package.RadGraph(model_type=self._config.model, cuda=cuda, **folder)
        except Exception as error:  # whatever the package or its download raises
            raise BackendError(
                f"radgraph: the weights of {self._config.model} cannot be loaded ({type(error).__name__}); "
                "it downloads them on first use, or put them into its folder (reader.weights)"
            ) from None

    def _answer(self, sentences: Sequence[str]) -> Answer:
        unusable: Counter[str] = Counter()
        if not sentences:
            return [], unusable
        graphs = self._model([" ".join(sentence.split()) for sentence in sentences])
        said: list[list[Statement]] = []
        for number in range(len(sentences)):
            graph = graphs.get(str(number))
            if graph is None:
                unusable[UNANSWERED] += 1
            said.append([] if graph is None else _statements(graph, unusable))
        return said, unusable


def _statements(graph: Mapping[str, Any], unusable: Counter[str]) -> list[Statement]:
    """The statements of one sentence's graph, in the order of its words."""
    text, entities = graph["text"], graph["entities"]
    words = find_words(text, 0, len(text))
    mentions = find_mentions([word.form for word in words])
    tokens = _token_spans(text)
    found: list[Statement] = []
    for entity in sorted(entities.values(), key=lambda one: one["start_ix"]):
        kind, _, certainty = entity["label"].partition("::")
        if kind != "Observation" or certainty not in _CERTAINTY or _is_modifier(entity, entities):
            continue
        start, end = tokens[entity["start_ix"]][0], tokens[entity["end_ix"]][1]
        named = [one for one in mentions if words[one.begin].start < end and start < words[one.end - 1].end]
        if not named and (name := canonical(entity["tokens"])) is not None:
            named = [Mention(name, "mention", 0, 0)]
        if not named:
            unusable[UNKNOWN] += 1
        near = _near(entity, entities, words, tokens)
        found.extend(
            said for mention in named for said in _said(mention, _CERTAINTY[certainty], near) if said not in found
        )
    return found


def _said(mention: Mention, certainty: Certainty, near: Sequence[Word]) -> list[Statement]:
    if mention.polarity in {"normal", "inverse"}:
        certainty = _OPPOSITE.get(certainty, certainty)
    severity = None if certainty is Certainty.ABSENT else find_severity(near)
    base = Statement(finding=mention.finding, certainty=certainty, severity=severity, sign=mention.polarity == "sign")
    places = find_places(near) if VOCABULARY[mention.finding].place else ()
    return [replace(base, location=place.location) for place in places] or [base]


def _token_spans(text: str) -> list[tuple[int, int]]:
    """Where each of RadGraph's tokens, which it joins by blanks, stands."""
    spans: list[tuple[int, int]] = []
    position = 0
    for token in text.split(" "):
        spans.append((position, position + len(token)))
        position += len(token) + 1
    return spans


def _is_modifier(entity: Mapping[str, Any], entities: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether an observation only modifies another ("small" of "small effusion")."""
    return any(
        kind == "modify" and entities.get(target, {}).get("label", "").startswith("Observation")
        for kind, target in entity["relations"]
    )


def _near(
    entity: Mapping[str, Any],
    entities: Mapping[str, Mapping[str, Any]],
    words: Sequence[Word],
    tokens: Sequence[tuple[int, int]],
) -> list[Word]:
    """The words of the entity, of what modifies it, of the anatomy it is located at, and of what modifies that."""
    targets = {target for kind, target in entity["relations"] if kind == "located_at"}
    names = {name for name, one in entities.items() if one is entity} | targets
    names |= {
        name
        for name, one in entities.items()
        for kind, target in one["relations"]
        if kind == "modify" and target in names
    }
    spans = [
        (tokens[entities[name]["start_ix"]][0], tokens[entities[name]["end_ix"]][1])
        for name in names
        if name in entities
    ]
    return [word for word in words if any(start <= word.start and word.end <= end for start, end in spans)]
