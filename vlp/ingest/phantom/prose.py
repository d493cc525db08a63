"""Writes the report of a phantom study as a radiologist would, and records what each sentence says.

What is written is true of the study, with two declared exceptions: hedges, which leave a finding open whether or not it
is there, and omissions of small findings.  The record lists both.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vlp.ingest.phantom.authors import Author, Section, author
from vlp.ingest.phantom.phrases import expand, phrasebook, sentence_case
from vlp.ingest.phantom.statements import SaidSide, Statement, Subject, deny_together, devices, stock
from vlp.ingest.phantom.truth import FINDINGS, StudyTruth, Zone
from vlp.records import Certainty

ORGANS: dict[str, tuple[str, ...]] = {
    "lines and tubes": ("support device",),
    "lungs": ("consolidation", "atelectasis", "edema", "nodule", "mass", "emphysema", "fibrosis"),
    "pleura": ("pleural effusion", "pneumothorax", "pleural thickening"),
    "heart and mediastinum": ("cardiomegaly", "hernia"),
    "bones": ("fracture",),
}

_STOCK: dict[str, tuple[tuple[str, float], ...]] = {
    "lungs": (("lungs", 0.6), ("vessels", 0.15)),
    "pleura": (("pleura", 0.05),),
    "heart and mediastinum": (("heart", 0.5),),
    "bones": (("bones", 0.4), ("spine", 0.08)),
}
"""Stock sentences of each organ and how often they are written where they are true."""

_OMITTED, _HEDGED, _DOUBTED, _RESOLVED = 0.08, 0.12, 0.006, 0.7
_UNSEEN = 0.45
"""Chance of denying a sign too, of the chance of denying the finding."""
_STOCK_NORMAL = ("normal lungs", "normal pleura", "normal heart", "bones")
_STOCK_NORMAL_SHARE = 0.45
"""Share of studies with nothing to report that get the same few sentences from everybody."""
_MOST_IMPRESSIONS = 5
_LINE_WIDTH = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """What the sentence `text[start:end]` of a report says of one finding."""

    start: int
    end: int
    finding: str
    certainty: Certainty
    side: SaidSide | None
    """None where the sentence names no side."""
    zone: Zone | None
    named: bool
    """Whether the finding itself is named; otherwise only its sign is ("the costophrenic angle is blunted")."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """A report and the record of what it says."""

    text: str
    mentions: tuple[Mention, ...]
    omitted: tuple[str, ...] = ()
    """Findings that are present and that the report leaves out."""


def write_report(truth: StudyTruth) -> str:
    """The text of the study's report."""
    return compose(truth).text


def compose(truth: StudyTruth) -> WrittenReport:
    """The study's report with the record of what it says; the same truth gives the same report."""
    generator = random.Random(f"{truth.id}/{truth.exposure.seed}")
    writer = author(truth.exposure.site, generator)
    plan = _Plan(truth, writer, generator)
    page = _Page(writer, generator)
    for section in writer.sections:
        page.heading(section)
        if section == "findings":
            _write_findings(page, plan)
        elif section == "impression":
            _write_impression(page, plan)
        else:
            page.add(Statement(text=_preliminary(section, truth, generator)))
    return page.finish(omitted=plan.omitted)


class _Plan:
    """Decides, once per report, what is said of each finding, so that its sections agree."""

    def __init__(self, truth: StudyTruth, writer: Author, generator: random.Random) -> None:
        self.truth, self.writer, self.generator = truth, writer, generator
        self.subjects = {name: Subject(truth, name) for name in FINDINGS}
        self.compare = truth.earlier is not None and generator.random() < writer.comparing
        present = [name for name in FINDINGS if self.subjects[name].present]
        lesser = [name for name in present if self.subjects[name].degree == "small" and name != "support device"]
        self.omitted = tuple(name for name in lesser if generator.random() < _OMITTED)
        unsure = [
            name
            for name in present
            if name not in (*self.omitted, "support device") and self.subjects[name].degree != "large"
        ]
        self.hedged = {name for name in unsure if generator.random() < _HEDGED}
        self.affirmed = [name for name in present if name not in self.omitted and name not in self.hedged]
        absent = [name for name in FINDINGS if name not in present]
        resolved = [name for name in absent if self.subjects[name].resolved and self.compare]
        self.resolved = [name for name in resolved if generator.random() < _RESOLVED]
        others = [name for name in absent if name not in self.resolved]
        self.doubted = [name for name in others if generator.random() < _DOUBTED]
        phrases = phrasebook().findings
        self.denied = [
            name
            for name in others
            if name not in self.doubted and generator.random() < min(0.95, phrases[name].negated * writer.denying)
        ]
        self.untrue = frozenset((*present, *self.doubted))
        """Findings that no general sentence may deny."""

    def affirm(self, name: str, *, brief: bool) -> list[Statement]:
        subject, generator = self.subjects[name], self.generator
        compare = self.compare and generator.random() < 0.75
        if name == "support device":
            return devices(self.truth, generator, compare=self.compare, brief=brief)
        statement = subject.affirm(generator, compare=compare, brief=brief)
        if brief or generator.random() > self.writer.signs:
            return [statement]
        sign = subject.show(generator)
        # A sign may stand alone where an impression will name the finding.
        alone = "impression" in self.writer.sections and generator.random() < 0.3
        return [statement] if sign is None else [sign] if alone else [sign, statement]

    def stock(self, name: str) -> list[Statement]:
        fitting = [sentence for sentence in phrasebook().stock[name] if not self.untrue & sentence.excludes]
        return [stock(self.generator.choice(fitting))] if fitting else []


def _write_findings(page: "_Page", plan: _Plan) -> None:
    if not plan.untrue and plan.generator.random() < _STOCK_NORMAL_SHARE:
        page.extend(statement for name in _STOCK_NORMAL for statement in plan.stock(name))
        return
    organs = list(ORGANS)
    if not plan.writer.devices_first:
        organs = organs[1:] + organs[:1]
    for organ in organs:
        statements = _organ(organ, plan)
        if plan.writer.organs and statements:
            page.label(organ)
        page.extend(statements)
    if plan.writer.denials == "together" and (rest := [name for name in plan.denied if name != "support device"]):
        for names in _batches(rest, plan.generator):
            page.add(deny_together(names, plan.generator))


def _organ(organ: str, plan: _Plan) -> list[Statement]:
    generator = plan.generator
    statements: list[Statement] = []
    for name in ORGANS[organ]:
        statements += _positive(name, plan, brief=False)
    statements += _denials(organ, plan)
    for name, chance in _STOCK.get(organ, ()):
        if generator.random() < chance:
            stock = plan.stock(name)
            statements = stock + statements if name == "lungs" else statements + stock
    if organ == "lungs" and plan.truth.exposure.inspiration < 0.4:
        statements = plan.stock("volumes") + statements
    return statements


def _positive(name: str, plan: _Plan, *, brief: bool) -> list[Statement]:
    """What is said of a finding that is there, was there, or may be there."""
    subject = plan.subjects[name]
    if name in plan.affirmed:
        return plan.affirm(name, brief=brief)
    if name in plan.hedged:
        return [subject.hedge(plan.generator)]
    said = None
    if name in plan.resolved:
        said = subject.resolve(plan.generator)
    elif name in plan.doubted and not brief:
        said = subject.doubt(plan.generator)
    return [] if said is None else [said]


def _denials(organ: str, plan: _Plan) -> list[Statement]:
    names = [name for name in ORGANS[organ] if name in plan.denied]
    generator = plan.generator
    alone = names if plan.writer.denials == "one by one" or names == ["support device"] else []
    if plan.writer.denials == "by organ":
        alone = alone or [name for name in names if generator.random() < 0.25]
    statements = [plan.subjects[name].deny(generator) for name in alone]
    rest = [name for name in names if name not in alone]
    if rest and plan.writer.denials == "by organ":
        statements += [deny_together(batch, generator) for batch in _batches(rest, generator)]
    for name in names:
        unseen = plan.subjects[name].deny_sign(generator)
        if unseen is not None and generator.random() < _UNSEEN * plan.subjects[name].phrases.negated:
            statements.insert(generator.randrange(len(statements) + 1), unseen)
    return statements


def _batches(names: Sequence[str], generator: random.Random) -> Iterable[list[str]]:
    """`names` in random order, at most four at a time."""
    shuffled = generator.sample(list(names), len(names))
    size = generator.choice((2, 3, 3, 4))
    return [shuffled[start : start + size] for start in range(0, len(shuffled), size)]


def _write_impression(page: "_Page", plan: _Plan) -> None:
    alone = "findings" not in plan.writer.sections
    worst_first = sorted(
        (*plan.affirmed, *plan.hedged, *plan.resolved),
        key=lambda name: (name in plan.resolved, -plan.subjects[name].severity, name),
    )
    shown = worst_first if alone else worst_first[:_MOST_IMPRESSIONS]
    statements = [statement for name in shown for statement in _positive(name, plan, brief=True)]
    if alone:
        statements += [said for name in plan.doubted for said in _positive(name, plan, brief=False)]
    denied = [name for name in plan.denied if name != "support device"]
    if denied and (alone or plan.generator.random() < 0.25):
        few = plan.generator.sample(denied, min(len(denied), 6 if alone else 2))
        statements += [deny_together(names, plan.generator) for names in _batches(few, plan.generator)]
    if not shown or plan.generator.random() < 0.4:
        statements += plan.stock("normal")
    if not statements:
        statements = [Statement(text="See findings.")]
    closing = plan.generator.choice(phrasebook().closings)
    ending = [Statement(text=closing)] if closing else []
    if plan.writer.numbered and len(statements) > 1:
        page.numbered([*statements, *ending])
    else:
        page.extend([*statements, *ending])


def _preliminary(section: Section, truth: StudyTruth, generator: random.Random) -> str:
    book = phrasebook()
    views = "bedside" if truth.exposure.frontal == "AP" else "two" if truth.exposure.lateral else "one"
    if section == "exam":
        return generator.choice(book.exams[views])
    if section == "technique":
        return generator.choice(book.techniques[views])
    if section == "indication":
        names = {"age": f"{truth.body.age:.0f}", "sex": {"F": "woman", "M": "man"}[truth.body.sex]}
        return expand(generator.choice(book.indications), names=names, generator=generator).text
    if truth.earlier is None:
        return generator.choice(("None.", "None available.", "No prior study."))
    names = {"interval": _interval(truth.days - truth.earlier.days)}
    return expand(generator.choice(book.comparisons), names=names, generator=generator).text


def _interval(days: int) -> str:
    for length, unit in ((365, "year"), (30, "month"), (7, "week"), (1, "day")):
        if days >= 2 * length or unit == "day":
            count = max(1, days // length)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    raise AssertionError(days)


@dataclass(slots=True)
class _Page:
    """The report while it is written; knows where each sentence stands."""

    writer: Author
    generator: random.Random
    parts: list[str] = field(default_factory=list)
    length: int = 0
    mentions: list[Mention] = field(default_factory=list)

    def heading(self, section: Section) -> None:
        if self.parts:
            self._put("\n\n" if self.writer.lines else "\n")
        style = self.writer.headings
        if style == "none":
            return
        title = {"upper": section.upper(), "title": section.capitalize(), "lower": section}[style]
        self._put(f"{title}:{chr(10) if self.writer.lines else ' '}")

    def label(self, organ: str) -> None:
        """Starts a line of findings, e.g. "LUNGS: "."""
        self._put(f"{'' if self._fresh() else chr(10)}{organ.upper()}: ")

    def extend(self, statements: Iterable[Statement]) -> None:
        for statement in statements:
            self.add(statement)

    def numbered(self, statements: Sequence[Statement]) -> None:
        for number, statement in enumerate(statements, start=1):
            self._put(f"{'' if self._fresh() else chr(10)}{number}. ")
            self.add(statement)

    def add(self, statement: Statement) -> None:
        if not self._fresh():
            self._put(" ")
        text = self._shorten(statement.text)
        start = self.length
        self._put(text)
        for said in statement.said:
            self.mentions.append(
                Mention(
                    start=start,
                    end=self.length,
                    finding=said.finding,
                    certainty=said.certainty,
                    side=said.side,
                    zone=said.zone,
                    named=said.named,
                )
            )

    def finish(self, *, omitted: tuple[str, ...]) -> WrittenReport:
        text = "".join(self.parts)
        if self.writer.wrapped:
            text = _wrap(text)
        if self.writer.capitals:
            text = text.upper()
        return WrittenReport(text=text, mentions=tuple(self.mentions), omitted=omitted)

    def _put(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)

    def _fresh(self) -> bool:
        return not self.parts or self.parts[-1][-1] in "\n "

    def _shorten(self, text: str) -> str:
        for words, short in phrasebook().abbreviations.items():
            if self.generator.random() < self.writer.abbreviating:
                text = re.sub(rf"\b{words}\b", short, text, flags=re.IGNORECASE)
        return sentence_case(text)


def _wrap(text: str) -> str:
    """Breaks long lines at spaces; every character stays at its place."""
    characters = list(text)
    line_start, last_space = 0, -1
    for position, character in enumerate(characters):
        if character == "\n":
            line_start, last_space = position + 1, -1
        elif character == " ":
            last_space = position
        if position - line_start >= _LINE_WIDTH and last_space >= 0:
            characters[last_space] = "\n"
            line_start, last_space = last_space + 1, -1
    return "".join(characters)
