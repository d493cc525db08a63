"""A finding in words, from templates alone: every number in them is a number of the JSON, none is made up in prose.

With the statement goes a *contrast*: which one descriptor, were it undecided (p_d = 1/2), would change the decision.
An undecided descriptor contributes 0, so the answer is exact: its contribution is subtracted from the total.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vlp.inference.pooling import LINKS

if TYPE_CHECKING:
    from vlp.inference.diagnosis import DescriptorEvidence, FindingEvidence

Decide = Callable[[float], tuple[str, float | None]]
"""A score -> the decision it leads to, and its calibrated probability if there is one."""

UNDECIDED = "undecided"
_ROUNDING = 1e-9
_NAMED = "named directly"
"""What `vlp.prompts.descriptors` calls the pair that names the finding itself."""
_NUMERAL = re.compile(r"\d+(?:\.\d+)?")
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """What would have to be otherwise for another decision."""

    decision: str
    """The decision as it stands: a state, or on which side of undecided the similarity lies."""
    descriptor: str | None
    """Id of the descriptor that decides alone, the one with the smallest contribution if several do; None: no one."""
    text: str | None
    decision_without: str | None
    """The decision were that descriptor undecided."""
    similarity: float
    similarity_without: float | None
    probability: float | None
    probability_without: float | None
    num_together: int | None
    """How many descriptors, the strongest first, would have to be undecided together for another decision; 1 where one
    decides alone, None where all of them together change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A number as it stands in a statement, and where in the finding's JSON it comes from."""

    shown: str
    path: str
    """Keys from the finding's JSON on, with dots between."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """Sentences, and every number in them."""

    text: str
    numbers: tuple[Number, ...]

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"text": self.text, "numbers": [asdict(number) for number in self.numbers]}


def side_of_undecided(score: float) -> tuple[str, None]:
    """The decision of an uncalibrated score: on which side of one half it lies."""
    if abs(score - 0.5) < _ROUNDING:
        return UNDECIDED, None
    return ("above undecided" if score > 0.5 else "below undecided"), None


def contrast(evidence: "FindingEvidence", *, decide: Decide = side_of_undecided) -> Contrast | None:
    """The smallest change of one descriptor that would change the decision; None for a finding without descriptors.

    Args:
        evidence: The finding.
        decide: What a score leads to; a decision may only change once or twice as scores rise.
    """
    if not evidence.descriptors:
        return None

    def without(gone: Iterable["DescriptorEvidence"]) -> float:
        return float(LINKS[evidence.scale](evidence.total - sum(item.contribution for item in gone)))

    decision, probability = decide(evidence.score)

    def changes(gone: Iterable["DescriptorEvidence"]) -> bool:
        # That nothing is left of a finding whose descriptors are all undecided is no decision.
        return decide(without(gone))[0] not in (decision, UNDECIDED)

    deciding = [item for item in evidence.descriptors if changes([item])]
    least = min(deciding, key=lambda item: abs(item.contribution), default=None)
    similarity_without = None if least is None else without([least])
    decision_without, probability_without = (None, None) if similarity_without is None else decide(similarity_without)
    return Contrast(
        decision=decision,
        descriptor=None if least is None else least.id,
        text=None if least is None else least.text,
        decision_without=decision_without,
        similarity=evidence.score,
        similarity_without=similarity_without,
        probability=probability,
        probability_without=probability_without,
        num_together=_num_together(evidence, changes),
    )


def statement(evidence: "FindingEvidence") -> Statement:
    """The finding in two to four short sentences."""
    written = _Written()
    name = evidence.finding.capitalize()
    if evidence.probability is None:
        written.say(f"{name}: similarity {written.number('similarity', evidence.score)}, uncalibrated.")
    else:
        percent = written.percent("probability", evidence.probability)
        written.say(f"{name}: {evidence.state}, probability {percent} (calibrated).")
    loudest, softest = evidence.strongest()
    places = {item.id: index for index, item in enumerate(evidence.descriptors)}
    for words, item in (("Most for it", loudest), ("Most against it", softest)):
        if item is not None:
            shown = written.number(f"descriptors.{places[item.id]}.pair_softmax", item.probability)
            written.say(f"{words}: {_quoted(item.text)} ({shown}){_place(item)}.")
    found = evidence.contrast
    if found is not None:
        written.say(_contrasted(written, found))
    return Statement(text=" ".join(written.sentences), numbers=tuple(written.numbers))


def unmatched(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """What in the statement of a finding's JSON is not a number of that JSON; empty where all is well.

    Checked from the JSON alone: every numeral outside quoted words is listed, and every listed number is, at its path,
    the value it is said to be and rounds to what is shown.
    """
    content = finding["statement"]
    bare = _QUOTED.sub("", content["text"][len(finding["finding"]) :])
    faults = []
    listed = [str(number["shown"]) for number in content["numbers"]]
    for numeral in _NUMERAL.findall(bare):
        if numeral in listed:
            listed.remove(numeral)
        else:
            faults.append(f"{numeral} is in the statement and not in its numbers")
    faults += [f"{shown} is in the numbers and not in the statement" for shown in listed]
    for number in content["numbers"]:
        value = _at(finding, number["path"])
        if value != number["value"] or number["shown"] not in _roundings(value):
            faults.append(f"{number['shown']} is not what stands at {number['path']}")
    return tuple(faults)


class _Written:
    """Sentences in the making; a number can only be had by saying where it comes from."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.numbers: list[Number] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def number(self, path: str, value: float) -> str:
        return self._shown(path, value, f"{value:.3f}")

    def percent(self, path: str, value: float) -> str:
        return self._shown(path, value, f"{100 * value:.1f}") + " %"

    def count(self, path: str, value: int) -> str:
        return self._shown(path, value, str(value))

    def _shown(self, path: str, value: float, shown: str) -> str:
        self.numbers.append(Number(shown=shown, path=path, value=value))
        return shown


def _contrasted(written: _Written, found: Contrast) -> str:
    if found.descriptor is None:
        if found.num_together is None:
            return f"No single descriptor decides, nor do several together: it stays {found.decision}."
        together = written.count("contrast.num_together", found.num_together)
        return f"No single descriptor decides; the {together} strongest together would."
    assert found.text is not None
    assert found.similarity_without is not None
    if found.probability is not None and found.probability_without is not None:
        before = written.percent("contrast.probability", found.probability)
        after = written.percent("contrast.probability_without", found.probability_without)
    else:
        before = written.number("contrast.similarity", found.similarity)
        after = written.number("contrast.similarity_without", found.similarity_without)
    return f"Would change to {found.decision_without} if {_quoted(found.text)} were undecided: {before} -> {after}."


def _num_together(evidence: "FindingEvidence", changes: Callable[[Iterable["DescriptorEvidence"]], bool]) -> int | None:
    """The shortest run of the strongest descriptors, on one side, without which the decision is another."""
    fewest: int | None = None
    for sign in (1.0, -1.0):
        ordered = sorted(
            (item for item in evidence.descriptors if sign * item.contribution > 0),
            key=lambda item: -sign * item.contribution,
        )
        for count in range(1, len(ordered) + 1):
            if (fewest is None or count < fewest) and changes(ordered[:count]):
                fewest = count
                break
    return fewest


def _place(item: "DescriptorEvidence") -> str:
    words = next((place.words for place in item.where if place.words), "")
    return f", {words}" if words else ""


def _quoted(text: str) -> str:
    if text == _NAMED:
        return "the finding's own name"
    return '"' + text.replace('"', "'") + '"'


def _at(content: Any, path: str) -> Any:
    for key in path.split("."):
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content


def _roundings(value: float) -> tuple[str, str, str]:
    return f"{value:.3f}", f"{100 * value:.1f}", str(value)
