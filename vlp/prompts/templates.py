"""Wordings of one question: named templates, to ask in several ways how much the words matter, or to ask all at once.

A template is a pair of opposite sentences about a finding.  `paraphrases` gives each as a question of its own (the
spread of the scores is prompt sensitivity); `ensemble` gives several as one question whose vectors are averaged.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from vlp.errors import ConfigError
from vlp.prompts.protocols import Ask, noun_of
from vlp.reports.findings import NO_FINDING, VOCABULARY

TEMPLATES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "name": ("{noun}", "no {noun}"),
        "there is": ("There is {phrase}.", "There is no {noun}."),
        "seen": ("{phrase} is seen.", "No {noun} is seen."),
        "consistent": ("Findings consistent with {noun}.", "No evidence of {noun}."),
        "shows": ("The chest radiograph shows {phrase}.", "The chest radiograph shows no {noun}."),
        "present": ("{phrase} is present.", "No {noun} is present."),
    }
)
"""Name -> (sentence that says it is there, sentence that says it is not); {phrase} is the noun with its article."""

ENSEMBLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": tuple(TEMPLATES),
        "sentences": ("there is", "seen", "shows"),
        "short": ("name", "present"),
    }
)
"""Name -> templates asked as one question."""


def paraphrases(finding: str) -> tuple[Ask, ...]:
    """One question per template; the id is the template's name.

    Args:
        finding: canonical name; one outside the report vocabulary stands in the sentences as it is.
    """
    return tuple(_ask(finding, name, (name,)) for name in TEMPLATES)


def ensemble(finding: str, *, name: str = "all") -> Ask:
    """One question in several wordings at once, their vectors to be averaged.

    Raises:
        ConfigError: for an ensemble that is not in `ENSEMBLES`.
    """
    if name not in ENSEMBLES:
        raise ConfigError(f"unknown prompt ensemble {name[:60]!r}; there are {', '.join(ENSEMBLES)}")
    return _ask(finding, f"ensemble {name}", ENSEMBLES[name])


def _ask(finding: str, identity: str, names: Sequence[str]) -> Ask:
    entry, noun = VOCABULARY.get(finding), noun_of(finding)
    phrase = entry.phrase if entry is not None else noun
    affirmed, denied = (
        tuple(_sentence(TEMPLATES[name][side], noun=noun, phrase=phrase) for name in names) for side in (0, 1)
    )
    if finding == NO_FINDING:  # its noun is an abnormality: nothing is found where that is denied
        affirmed, denied = denied, affirmed
    return Ask(id=identity, text=finding, anatomy="", positives=affirmed, negatives=denied)


def _sentence(template: str, **words: str) -> str:
    """The template filled in; what ends in a full stop begins with a capital."""
    text = template.format(**words)
    return text[:1].upper() + text[1:] if text.endswith(".") else text
