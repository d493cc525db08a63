"""A draft of findings from what was written of the neighbours: their own sentences, each with its source.

Nothing is generated and nothing is merged.  The vote says which findings the draft speaks of; under each stand
sentences of the neighbours' reports, word for word, and where they disagree on the side, or on whether the finding is
there at all, all of them are listed and the disagreement is named.  No sentence was written about the query.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

from vlp.errors import DataError
from vlp.records import Certainty, Sentence
from vlp.reports import read
from vlp.reports.locations import parts
from vlp.reports.wording import training_text
from vlp.retrieval.vote import Ballot, Voter, Weight, ballots, nearest, weights

NOTE = "Draft of other patients' sentences, word for word. Research use, not a medical device."
DISSENT = 0.2
"""Share of the weight from which those who say otherwise are a contradiction; below it they are only listed."""
State = Literal["present", "absent", "undecided"]
Contradiction = Literal["side", "polarity"]
_WORDS = re.compile(r"\w+")


class Source(Voter, Protocol):
    """A neighbour with its report; a `Hit` is one."""

    @property
    def report(self) -> str | None:
        """As written, None where there is none."""


Statements = Callable[[Source], Sequence[Sentence]]
"""From a neighbour to what its report states, with spans of the report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A sentence as it stands in a neighbour's report."""

    text: str
    key: str
    """Whose report: key of the study."""
    start: int
    end: int
    """Span of the report, in characters."""
    section: str
    location: str | None
    severity: str | None
    score: float
    """Cosine of the neighbour with the query."""
    compares: bool
    """Whether it speaks of that patient's earlier studies, which says nothing of this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What some neighbours say alike: the same certainty on the same side."""

    certainty: Certainty
    side: str | None
    """"left", "right", "bilateral"; None where no side is named."""
    quote: Quote
    """Of the nearest neighbour that says so without looking back at an earlier study, else of the nearest."""
    keys: tuple[str, ...]
    """Neighbours that say so, nearest first."""
    weight: float
    """Of these neighbours together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFinding:
    """One finding of a draft."""

    finding: str
    state: State
    share: float
    known: int
    """Neighbours whose labels speak of it."""
    variants: tuple[Variant, ...]
    """All that is said of it, what fits the state first, then by weight; empty where no neighbour wrote of it."""
    contradictions: tuple[Contradiction, ...]

    @property
    def chosen(self) -> tuple[Variant, ...]:
        """What the draft says: the weightiest variant that fits the state; all sides where the side is contradicted.

        Empty for what is undecided, or contradicted as a whole: then there is only the list.
        """
        fitting = [one for one in self.variants if one.certainty == self.state]
        if self.state == "undecided" or "polarity" in self.contradictions:
            return ()
        if "side" in self.contradictions:
            return tuple(one for one in fitting if one.side is not None)
        return tuple(fitting[:1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Findings with sentences of other patients."""

    findings: tuple[DraftFinding, ...]
    neighbours: int
    """Cases that had a voice."""
    without_report: int
    """Of these, cases that have no report to quote."""
    threshold: float
    absent_threshold: float
    note: str = NOTE

    @property
    def text(self) -> str:
        """The draft as lines: per finding its share, then quotes with their source."""
        lines = [self.note]
        for one in self.findings:
            named = "".join(f"; neighbours disagree on the {word}" for word in one.contradictions)
            lines.append(f"{one.finding}: {one.state} ({one.share:.0%} of {one.known} neighbours{named})")
            shown = one.chosen or one.variants
            lines += [f"  {_line(variant)}" for variant in shown]
            if not shown:
                lines.append("  no neighbour's report speaks of it")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The draft as plain values, what was chosen beside all that is said."""
        return {
            "note": self.note,
            "neighbours": self.neighbours,
            "without_report": self.without_report,
            "threshold": self.threshold,
            "absent_threshold": self.absent_threshold,
            "findings": [
                {**asdict(one), "chosen": [one.variants.index(variant) for variant in one.chosen]}
                for one in self.findings
            ],
        }


def draft(
    hits: Iterable[Source],
    findings: Sequence[str] | None = None,
    *,
    k: int = 50,
    threshold: float = 0.5,
    absent_threshold: float = 0.2,
    weight: Weight = "similarity",
    statements: Statements | None = None,
) -> Draft:
    """What the neighbours' reports say of the findings their labels vote for.

    Args:
        hits: what a search gave, best first.
        findings: as in `vote`.
        k: how many neighbours have a voice.
        threshold: share from which a finding is drafted as present.
        absent_threshold: share up to which it is drafted as absent; between the two it is undecided.
        weight: what a voice counts.
        statements: what a neighbour's report states; None: as the rules of `vlp.reports` read it.

    Returns:
        The findings with a share, in their order.  Sentences that were made from labels are never quoted.

    Raises:
        DataError: for thresholds that are not 0 <= absent < present <= 1, and as `vote`.
    """
    if not 0.0 <= absent_threshold < threshold <= 1.0:
        raise DataError(f"thresholds must be 0 <= absent < present <= 1, not {absent_threshold} and {threshold}")
    sources = nearest(hits, k)
    voices = dict(zip((source.key for source in sources), weights(sources, weight).tolist(), strict=True))
    quotes = [quote for source in sources for quote in _quotes(source, statements or _read)]
    drafted = [
        _finding(ballot, quotes, voices, threshold=threshold, absent_threshold=absent_threshold)
        for ballot in ballots(sources, findings, k=k, weight=weight)
        if ballot.share is not None
    ]
    return Draft(
        findings=tuple(drafted),
        neighbours=len(sources),
        without_report=sum(not source.report for source in sources),
        threshold=threshold,
        absent_threshold=absent_threshold,
    )


_Said = tuple[str, Certainty, str | None, Quote]
"""(finding, certainty, side, sentence)."""


def _quotes(source: Source, statements: Statements) -> list[_Said]:
    """What the neighbour's report states of findings, in its order."""
    report = source.report
    if not report:
        return []
    said: list[_Said] = []
    for sentence in statements(source):
        written = report[sentence.start : sentence.end]
        if sentence.finding is None or sentence.origin != "report" or not written.strip():
            continue
        quote = Quote(
            text=written,
            key=source.key,
            start=sentence.start,
            end=sentence.end,
            section=sentence.section,
            location=sentence.location,
            severity=sentence.severity,
            score=source.score,
            compares=_compares(written),
        )
        said.append((sentence.finding, sentence.certainty, parts(sentence.location or "")[0], quote))
    return said


def _finding(
    ballot: Ballot, quotes: Sequence[_Said], voices: dict[str, float], *, threshold: float, absent_threshold: float
) -> DraftFinding:
    assert ballot.share is not None
    state: State = "undecided"
    if ballot.share >= threshold:
        state = "present"
    elif ballot.share <= absent_threshold:
        state = "absent"
    variants = _variants([said for said in quotes if said[0] == ballot.finding], voices)
    ordered = sorted(variants, key=lambda one: (one.certainty != state, -one.weight, one.certainty, one.side or ""))
    return DraftFinding(
        finding=ballot.finding,
        state=state,
        share=ballot.share,
        known=ballot.known,
        variants=tuple(ordered),
        contradictions=_contradictions(ordered, state),
    )


def _variants(said: Sequence[_Said], voices: dict[str, float]) -> list[Variant]:
    """Sentences grouped by certainty and side; the order of neighbours is kept, each counts once in a group."""
    groups: dict[tuple[Certainty, str | None], list[Quote]] = {}
    for _, certainty, side, quote in said:
        groups.setdefault((certainty, side), []).append(quote)
    variants = []
    for (certainty, side), quotes in groups.items():
        keys = tuple(dict.fromkeys(quote.key for quote in quotes))
        variants.append(
            Variant(
                certainty=certainty,
                side=side,
                quote=next((quote for quote in quotes if not quote.compares), quotes[0]),
                keys=keys,
                weight=sum(max(voices[key], 0.0) for key in keys),
            )
        )
    return variants


def _contradictions(variants: Sequence[Variant], state: State) -> tuple[Contradiction, ...]:
    """What the neighbours disagree on; the side of what is drafted as absent does not matter."""
    polarity = {
        certainty: sum(one.weight for one in variants if one.certainty is certainty)
        for certainty in (Certainty.PRESENT, Certainty.ABSENT)
    }
    sides = {one.side: one.weight for one in variants if one.certainty is Certainty.PRESENT and one.side is not None}
    named: dict[Contradiction, list[float]] = {"polarity": list(polarity.values())}
    if state != "absent":
        named = {"side": list(sides.values()), **named}
    return tuple(name for name, sizes in named.items() if _disagree(sizes))


def _disagree(sizes: Sequence[float]) -> bool:
    """Whether those who are not with the majority have enough weight to be heard."""
    total = sum(sizes)
    return total > 0 and (total - max(sizes)) / total >= DISSENT


def _line(variant: Variant) -> str:
    quote = variant.quote
    more = len(variant.keys) - 1
    words = f'"{" ".join(quote.text.split())}" [{quote.key}, characters {quote.start}-{quote.end}'
    words += f", and {more} more" if more else ""
    return words + ("; compares with that patient's earlier study]" if quote.compares else "]")


@lru_cache(maxsize=4096)
def _understood(report: str) -> tuple[Sentence, ...]:
    return read(report)


def _read(source: Source) -> Sequence[Sentence]:
    return _understood(source.report or "")


@lru_cache(maxsize=16384)
def _compares(written: str) -> bool:
    """Whether the sentence loses words once what looks back at an earlier study is cut."""
    kept = training_text(written)
    return kept is None or len(_WORDS.findall(kept)) < len(_WORDS.findall(written))
