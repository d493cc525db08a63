"""The finding vocabulary, the names others give to its findings, and the one place where template text is made.

The vocabulary is data (`vocabulary.yaml`): the union of the labels of NIH ChestX-ray14, of CheXpert and of the phantom,
and a few findings of everyday reports.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import yaml

from vlp.errors import DataError
from vlp.records import Certainty, Sentence
from vlp.reports.locations import render
from vlp.reports.phrases import GAP, expand, normal_form

NO_FINDING = "no finding"
"""The canonical name of "nothing is wrong": its template reads the other way round."""

LabelSet = Literal["nih14", "chexpert14"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingEntry:
    """What the vocabulary knows of one finding."""

    name: str
    """Canonical name: lower case with spaces."""
    display: str
    """Name for tables."""
    noun: str
    """Words for it in a template."""
    article: str
    """"a", "an" or "" before the noun where something is affirmed."""
    place: str | None
    """Noun a side is attached to in a template ("lung"); None where a location says nothing."""
    group: str
    """Organ or kind it belongs to."""
    parent: str | None
    """Finding it is a kind of, by CheXpert's hierarchy."""
    labels: Mapping[LabelSet, str]
    """Official name a mention counts for, by label set."""
    names: tuple[str, ...]
    """Other spellings a name lookup accepts."""
    mentions: tuple[str, ...]
    """Wordings that state it, in the pattern language of `phrases`."""
    normal: tuple[str, ...]
    """Wordings that state its absence without a negation."""
    signs: tuple[str, ...]
    """Wordings that imply it unless the report denies it in plain words."""
    inverse: tuple[str, ...]
    """Wordings of its contrary, which a negation turns into it (only "no finding" has them)."""

    @property
    def wordings(self) -> tuple[str, ...]:
        """All that states it, its own name and noun included."""
        return self.mentions if self.name == NO_FINDING else (self.name, self.noun, *self.mentions)

    @property
    def phrase(self) -> str:
        """The noun with its article, as it stands in "There is ..."."""
        return f"{self.article} {self.noun}".strip()


@cache
def load_data(name: str) -> Any:
    """The parsed YAML file `name` of this package."""
    return yaml.safe_load((files("vlp.reports") / name).read_text(encoding="utf-8"))


def _entry(name: str, facts: Mapping[str, Any]) -> FindingEntry:
    sets: tuple[LabelSet, ...] = ("nih14", "chexpert14")
    return FindingEntry(
        name=name,
        display=facts["display"],
        noun=facts.get("noun", name),
        article=facts.get("article", ""),
        place=facts.get("place"),
        group=facts["group"],
        parent=facts.get("parent"),
        labels=MappingProxyType({label_set: facts[label_set] for label_set in sets if label_set in facts}),
        names=tuple(facts.get("names", ())),
        mentions=tuple(facts["mentions"]),
        normal=tuple(facts.get("normal", ())),
        signs=tuple(facts.get("signs", ())),
        inverse=tuple(facts.get("inverse", ())),
    )


VOCABULARY: Mapping[str, FindingEntry] = MappingProxyType(
    {name: _entry(name, facts) for name, facts in load_data("vocabulary.yaml")["findings"].items()}
)
"""Canonical name -> entry, in the order of the file."""


def _label_set(which: LabelSet) -> Mapping[str, str]:
    primary: dict[str, str] = {}
    for label, name in load_data("vocabulary.yaml")["label_sets"][which].items():
        assert VOCABULARY[name].labels.get(which) == label
        primary[label] = name
    return MappingProxyType(primary)


LABEL_SETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"nih14": _label_set("nih14"), "chexpert14": _label_set("chexpert14")}
)
"""Label set -> official name -> the canonical name that means the same; in the official order."""


def _simplified(name: str) -> str:
    return " ".join(normal_form(word) for word in name.replace("_", " ").replace("-", " ").split())


@cache
def _aliases() -> Mapping[str, str]:
    """Every accepted spelling, simplified: a canonical name wins over an official one, that over a wording."""
    aliases: dict[str, str] = {}
    shared: set[str] = set()
    for entry in VOCABULARY.values():
        wordings = {" ".join(row) for wording in entry.wordings for row in expand(wording) if GAP not in row}
        shared |= wordings & aliases.keys()
        aliases.update(dict.fromkeys(wordings, entry.name))
    aliases = {wording: name for wording, name in aliases.items() if wording not in shared}
    for entry in VOCABULARY.values():
        aliases.update({_simplified(name): entry.name for name in (*entry.names, entry.display)})
    for labels in LABEL_SETS.values():
        aliases.update({_simplified(label): name for label, name in labels.items()})
    aliases.update({_simplified(name): name for name in VOCABULARY})
    return MappingProxyType(aliases)


def canonical(name: str) -> str | None:
    """The canonical name for any label set's spelling or any wording of a finding ("PTX"); None if unknown.

    Case, "_", "-" and the plural "s" do not matter.  A wording that means two findings at once is not a name.
    """
    return _aliases().get(_simplified(name))


def sentence_text(finding: str, certainty: Certainty, *, location: str | None = None) -> str:
    """The template text: "There is F of the L.", "There may be ..." or "There is no ...".

    A location is left out where the finding has no place worth stating (an enlarged heart).  "no finding" reads the
    other way round: present is "There is no acute cardiopulmonary abnormality.".

    Raises:
        DataError: the finding is not in the vocabulary.
    """
    entry = VOCABULARY.get(finding)
    if entry is None:
        raise DataError(f"finding {finding!r} is not in the vocabulary; see vlp.reports.findings.VOCABULARY")
    where = f" {render(location, noun=entry.place)}" if location and entry.place else ""
    if finding == NO_FINDING:
        certainty = {Certainty.PRESENT: Certainty.ABSENT, Certainty.ABSENT: Certainty.PRESENT}.get(certainty, certainty)
    match certainty:
        case Certainty.PRESENT:
            return f"There is {entry.phrase}{where}."
        case Certainty.UNCERTAIN:
            return f"There may be {entry.phrase}{where}."
        case Certainty.ABSENT:
            return f"There is no {entry.noun}{where}."


def sentence_from_label(finding: str, certainty: Certainty) -> Sentence:
    """A sentence that nobody wrote, made from a label of the source and marked so (origin "labels", empty span)."""
    return Sentence(
        start=0,
        end=0,
        section="labels",
        finding=finding,
        certainty=certainty,
        text=sentence_text(finding, certainty),
        origin="labels",
    )
