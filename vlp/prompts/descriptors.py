"""Descriptors: what one would look for on an image, per finding, each as a pair of opposite sentences.

The vocabulary of the package is `descriptors.yaml` beside this file; a person may bring a file of their own in the same
form.  The idea of diagnosing by descriptors alone is Xplainer's (Pellegrini et al., 2023); the words are ours.

A file says once where its words come from, under which licence, and who reviewed them (`source`, `license`,
`reviewed_by`); an entry may say otherwise for itself.  `vlp.prompts.lint` checks what a schema cannot.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field

from vlp import config
from vlp.errors import ConfigError, DataError
from vlp.records import Certainty
from vlp.reports import findings as vocabulary

PACKAGE_FILE = Path(__file__).with_name("descriptors.yaml")

Form = Literal["a", "an", "mass", "plural"]
"""How a descriptor stands in a sentence: after "a", after "an", without an article, or in the plural."""
Prompts = Literal["descriptors", "finding", "both"]
"""Which pairs a diagnosis follows from: the descriptors, the finding named directly, or both."""

Laterality = Literal["left", "right", "either", "midline"]
"""The patient's side on which a descriptor may be seen; "either": on one side or on both."""
View = Literal["frontal", "lateral", "any"]
"""The projection on which a descriptor can be seen."""

_NAMED = "named directly"
_DIGEST_DIGITS = 16


class PromptPair(config.Config):
    """A sentence and its opposite."""

    positive: str
    negative: str


class DescriptorEntry(config.Config):
    """One descriptor as written in the file: its words and their form, or its sentences in full."""

    id: str
    form: Form | None = None
    """Which template makes its sentences; left out where they are written in full."""
    text: str
    """What it is called in tables, and what the template says is there."""
    anatomy: str
    """Where one looks for it."""
    positive: str | None = None
    """The sentence that says it is there, in full; may hold {context}."""
    negative: str | None = None
    """The sentence that says it is not, in full; may hold {context}."""
    laterality: Laterality | None = None
    view: View = "any"
    source: str | None = None
    license: str | None = None
    reviewer: str | None = None

    @property
    def sentences(self) -> "PromptPair | None":
        """The pair of sentences that the entry writes in full, if it does."""
        if self.positive is None or self.negative is None:
            return None
        return PromptPair(positive=self.positive, negative=self.negative)


class FindingEntry(config.Config):
    """What the file says of one finding."""

    named: PromptPair | None = None
    """How the finding itself is asked for; None: as training names it, which needs a finding of the vocabulary."""
    descriptors: tuple[DescriptorEntry, ...] = ()


class DescriptorFile(config.Config):
    """A descriptor file."""

    version: str
    license: str
    reviewed_by: str | None
    """Who reviewed the vocabulary as a radiologist; null: nobody has."""
    source: str = ""
    """Where the words come from."""
    note: str = ""
    anatomies: tuple[str, ...] = ()
    """Every name under which a descriptor may say where one looks; empty: any."""
    context: str = ""
    """What ties a descriptor to its finding in the templates; {finding} stands for the finding's phrase."""
    templates: dict[Form, PromptPair]
    findings: dict[str, FindingEntry] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """One descriptor of one finding, ready to be asked."""

    id: str
    finding: str
    text: str
    anatomy: str
    positive: str
    """The sentence that says it is there."""
    negative: str
    """The sentence that says it is not."""
    laterality: Laterality | None = None
    """The patient's side it belongs to; None: nothing is said of sides."""
    view: View = "any"
    source: str = ""
    """Where the words come from."""
    license: str = ""
    reviewer: str | None = None
    """Who reviewed it as a radiologist; None: nobody has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorSet:
    """A descriptor vocabulary."""

    version: str
    license: str
    reviewed_by: str | None
    note: str
    named: Mapping[str, Descriptor]
    """Per finding the pair that names it directly."""
    observed: Mapping[str, tuple[Descriptor, ...]]
    """Per finding its descriptors."""

    @property
    def all(self) -> tuple[Descriptor, ...]:
        """Every pair of the set, finding by finding, the one that names it first."""
        return tuple(pair for name, direct in self.named.items() for pair in (direct, *self.observed.get(name, ())))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over every sentence and what it is asked for; equal only for equal questions."""
        asked = [(pair.finding, pair.id, pair.positive, pair.negative) for pair in self.all]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:_DIGEST_DIGITS]

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings the set knows, in the order of the file."""
        return tuple(self.named)

    def resolve(self, name: str) -> str:
        """The one name of a finding given in any known spelling: of this set, or else of the report vocabulary.

        Raises:
            DataError: if neither knows the finding.
        """
        wanted = " ".join(name.lower().replace("_", " ").split())
        for candidate in (wanted, vocabulary.canonical(name) or ""):
            if candidate in self.named or candidate in vocabulary.VOCABULARY:
                return candidate
        close = get_close_matches(wanted, (*self.named, *vocabulary.VOCABULARY), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(self.findings)}"
        raise DataError(f"unknown finding {name[:60]!r}; {hint}; a descriptor file can add others")

    def of(self, finding: str, *, prompts: Prompts = "both") -> tuple[Descriptor, ...]:
        """The pairs a diagnosis of `finding` follows from; the one that names it comes first.

        A finding of the report vocabulary that this set has no descriptors for can still be asked for by its name.

        Raises:
            DataError: for an unknown finding, or one that has no descriptors where only these were asked for.
        """
        name = self.resolve(finding)
        direct = self.named[name] if name in self.named else _named(name, None)
        observed = self.observed.get(name, ())
        if prompts == "finding":
            return (direct,)
        if prompts == "both":
            return (direct, *observed)
        if not observed:
            raise DataError(f"the finding {name!r} has no descriptors; ask for it by its name (prompts: finding)")
        return observed


def load_descriptors(path: Path | str | None = None) -> DescriptorSet:
    """The descriptor vocabulary in `path`, or that of the package.

    Raises:
        ConfigError: one line per fault: not readable, not of the form, empty or repeated entries, a finding that is
            neither in the report vocabulary nor given a `named` pair.
    """
    source = Path(path) if path is not None else PACKAGE_FILE
    content = config.load(DescriptorFile, source)
    faults = [*_lint_templates(content), *_lint_ids(content)]
    faults += [fault for name, entry in content.findings.items() for fault in _lint_finding(name, entry)]
    if faults:
        raise ConfigError("\n".join(f"{source}: {fault}" for fault in faults))
    return DescriptorSet(
        version=content.version,
        license=content.license,
        reviewed_by=content.reviewed_by,
        note=content.note,
        named={
            name: replace(
                _named(name, entry.named),
                source=content.source,
                license=content.license,
                reviewer=content.reviewed_by,
            )
            for name, entry in content.findings.items()
        },
        observed={
            name: tuple(_observed(name, item, content) for item in entry.descriptors)
            for name, entry in content.findings.items()
        },
    )


def _named(finding: str, pair: PromptPair | None) -> Descriptor:
    positive, negative = (
        (pair.positive, pair.negative)
        if pair is not None
        else (
            vocabulary.sentence_text(finding, Certainty.PRESENT),
            vocabulary.sentence_text(finding, Certainty.ABSENT),
        )
    )
    return Descriptor(
        id=f"{re.sub(r'[^a-z0-9]+', '-', finding)}-named",
        finding=finding,
        text=_NAMED,
        anatomy="",
        positive=positive,
        negative=negative,
    )


def _observed(finding: str, entry: DescriptorEntry, content: DescriptorFile) -> Descriptor:
    wording = entry.sentences
    if wording is None:
        assert entry.form is not None
        wording = content.templates[entry.form]
    context = content.context.format(finding=_phrase(finding))
    return Descriptor(
        id=entry.id,
        finding=finding,
        text=entry.text,
        anatomy=entry.anatomy,
        positive=wording.positive.format(text=entry.text, context=context),
        negative=wording.negative.format(text=entry.text, context=context),
        laterality=entry.laterality,
        view=entry.view,
        source=content.source if entry.source is None else entry.source,
        license=content.license if entry.license is None else entry.license,
        reviewer=content.reviewed_by if entry.reviewer is None else entry.reviewer,
    )


def _phrase(finding: str) -> str:
    known = vocabulary.VOCABULARY.get(finding)
    return known.phrase if known is not None else finding


def _lint_templates(content: DescriptorFile) -> list[str]:
    faults = []
    for form, pair in content.templates.items():
        for polarity, template in pair.model_dump().items():
            if not _fills(template, text="x", context="y") or "{text}" not in template:
                faults.append(f"templates.{form}.{polarity}: needs {{text}}, may hold {{context}}, no other braces")
        if pair.positive == pair.negative:
            faults.append(f"templates.{form}: the positive and the negative sentence are the same")
    if not _fills(content.context, finding="x"):
        faults.append("context: may hold {finding}, no other braces")
    return faults


def _fills(template: str, **values: str) -> bool:
    try:
        template.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError):
        return False
    return True


def _lint_ids(content: DescriptorFile) -> list[str]:
    entries = [entry for finding in content.findings.values() for entry in finding.descriptors]
    faults = [
        f"the descriptor id {name!r} is used {count} times"
        for name, count in Counter(entry.id for entry in entries).items()
        if count > 1
    ]
    used = {entry.form for entry in entries if entry.form is not None and entry.sentences is None}
    missing = used - set(content.templates)
    return faults + [f"templates.{form}: missing, but descriptors use it" for form in sorted(missing)]


def _lint_finding(name: str, entry: FindingEntry) -> list[str]:
    faults = []
    if entry.named is None and name not in vocabulary.VOCABULARY:
        faults.append(f"findings.{name}: not in the report vocabulary; give it a `named` pair of sentences")
    if entry.named is None and not entry.descriptors:
        faults.append(f"findings.{name}: has neither descriptors nor a `named` pair")
    if entry.named is not None and not (entry.named.positive.strip() and entry.named.negative.strip()):
        faults.append(f"findings.{name}.named: an empty sentence")
    texts = Counter(" ".join(item.text.lower().split()) for item in entry.descriptors)
    faults += [f"findings.{name}: the descriptor {text!r} is repeated" for text, count in texts.items() if count > 1]
    return faults + [
        f"findings.{name}: descriptor {item.id!r}: {fault}" for item in entry.descriptors for fault in _lint_entry(item)
    ]


def _lint_entry(item: DescriptorEntry) -> list[str]:
    faults = []
    if not (item.id.strip() and item.text.strip() and item.anatomy.strip()):
        faults.append("empty id, text or anatomy")
    if (item.positive is None) != (item.negative is None):
        faults.append("give both a positive and a negative sentence, or neither")
    elif (item.form is None) == (item.sentences is None):
        faults.append("give either a form or the sentences in full")
    sentences = [sentence for sentence in (item.positive, item.negative) if sentence is not None]
    if not all(_fills(sentence, text="x", context="y") for sentence in sentences):
        faults.append("a sentence may hold {text} and {context}, no other braces")
    if item.sentences is not None and item.positive == item.negative:
        faults.append("the positive and the negative sentence are the same")
    return faults
