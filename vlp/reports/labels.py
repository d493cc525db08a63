"""What a whole report says of each finding."""

from collections.abc import Iterable
from typing import Literal

from vlp.records import Certainty, Sentence
from vlp.reports.findings import LABEL_SETS, NO_FINDING, VOCABULARY
from vlp.reports.language import detect_language, is_foreign
from vlp.reports.reader import read

_ORDER = (Certainty.ABSENT, Certainty.UNCERTAIN, Certainty.PRESENT)
_DEVICE = "support device"


def label(
    text: str, *, names: Literal["nih14", "chexpert14"] | None = None, language: str | None = None
) -> dict[str, Certainty]:
    """What `text` says of each finding it mentions: canonical names, or those of a label set.

    Several mentions of one finding resolve as present over uncertain over absent, as in the CheXpert labeler: one
    sentence that affirms outweighs any number that deny.  A finding that is not mentioned has no key.  A report in
    another language than English (None: see `detect_language`) has no labels at all.
    """
    language = language or detect_language(text)
    return {} if is_foreign(language) else resolve(read(text, language=language), names=names)


def resolve(
    sentences: Iterable[Sentence], *, names: Literal["nih14", "chexpert14"] | None = None
) -> dict[str, Certainty]:
    """The labels of sentences already read; see `label`.

    With a label set, each mention counts for the official name its finding belongs to: an infiltrate is CheXpert's
    "Lung Opacity", a nodule or mass its "Lung Lesion", pleural thickening its "Pleural Other".  Nothing is passed on
    from child to parent in CheXpert's hierarchy (pneumonia does not set "Lung Opacity"): neither does the
    official labeler, whose aggregation works on mentions alone.

    "no finding" is present only where no finding of CheXpert's but a device is present or uncertain.  CheXpert's
    "No Finding" is then present also where a report states only absences, as in the official labeler; never absent.
    """
    found: dict[str, Certainty] = {}
    spoken = False
    for sentence in sentences:
        spoken = True
        if sentence.finding is not None:
            _raise_to(found, sentence.finding, sentence.certainty)
    abnormal = any(
        certainty is not Certainty.ABSENT
        and name not in {NO_FINDING, _DEVICE}
        and "chexpert14" in VOCABULARY[name].labels
        for name, certainty in found.items()
    )
    if abnormal and found.get(NO_FINDING) is not None:
        found[NO_FINDING] = Certainty.ABSENT
    if names is None:
        return found
    labels: dict[str, Certainty] = {}
    for name, certainty in found.items():
        official = VOCABULARY[name].labels.get(names)
        if official is not None and name != NO_FINDING:
            _raise_to(labels, official, certainty)
    if names == "chexpert14" and spoken and not abnormal and found.get(NO_FINDING) is not Certainty.ABSENT:
        labels["No Finding"] = Certainty.PRESENT
    return {official: labels[official] for official in LABEL_SETS[names] if official in labels}


def _raise_to(labels: dict[str, Certainty], name: str, certainty: Certainty) -> None:
    """Keeps the stronger of the known and the new certainty."""
    known = labels.get(name)
    if known is None or _ORDER.index(certainty) > _ORDER.index(known):
        labels[name] = certainty
