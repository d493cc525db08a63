"""One study at a time: pseudonyms everywhere, dates moved or masked, hits masked, counted or refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
from jaxtyping import UInt8

from vlp.errors import PrivacyError
from vlp.ingest.privacy.burned_in import find_text
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.dates import shift_days
from vlp.ingest.privacy.phi import Hit, HitKind
from vlp.ingest.privacy.pseudonyms import Domain, Pseudonyms, read_key
from vlp.ingest.privacy.scanners import make_scanner
from vlp.ingest.privacy.texts import StudyTexts, on_one_line
from vlp.ingest.source import StudyFault
from vlp.records import LoadedStudy, Person, Report, Sentence, Study

OLDEST = 90.0
"""Ages above 89 become this, which then means "90 or more" (the Safe Harbor rule of HIPAA)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """A study that may be written, and what was found in it."""

    study: Study
    hits: Mapping[HitKind, int] = field(default_factory=lambda: MappingProxyType({}))
    """How often something identifying was found in its texts, by kind; dates have a policy and a count of their own."""
    dates: int = 0
    """Dates found in its texts."""
    burned_in: int = 0
    """Images with lines of text in them."""


class Privacy:
    """Applies a `PrivacyConfig`.

    It holds the key, which never leaves it: sent to another process it reads the key again there.

    Raises:
        PrivacyError: if the key is missing or too weak.
        BackendError: if the scanner that is asked for is not installed.
    """

    def __init__(self, config: PrivacyConfig) -> None:
        self.config = config
        self._scanner = make_scanner(config)
        self._pseudonyms: Pseudonyms | None = None
        if config.pseudonyms == "keyed":
            self._pseudonyms = Pseudonyms(read_key(config), namespace=config.namespace)

    def __reduce__(self) -> tuple[type["Privacy"], tuple[PrivacyConfig]]:
        return Privacy, (self.config,)

    def person(self, id_: str) -> str:
        """The pseudonym of a person's id; the id itself where pseudonyms are off."""
        return self._pseudonym("person", id_)

    def study(self, id_: str) -> str:
        """The pseudonym of a study's id; the id itself where pseudonyms are off."""
        return self._pseudonym("study", id_)

    def image(self, id_: str) -> str:
        """The pseudonym of an image's id; the id itself where pseudonyms are off."""
        return self._pseudonym("image", id_)

    def days(self, person: str) -> int:
        """How many days the dates of `person` (the archive's id) move: never 0, at most `max_shift_days` either way.

        0 unless dates are shifted.
        """
        if self._pseudonyms is None or self.config.dates != "shift":
            return 0
        return shift_days(self._pseudonyms.digest("days", person), max_days=self.config.max_shift_days)

    def scan(self, text: str) -> tuple[Hit, ...]:
        """What in `text` may say who somebody is, dates included, in order and without overlaps."""
        return self._scanner.scan(text)

    def burned_in(self, pixels: UInt8[np.ndarray, "rows columns"], *, flag: str | None = None) -> bool:
        """Whether a line of text is drawn in the image, or its header says so (`flag`: BurnedInAnnotation).

        A flag of "NO" is no evidence: whoever sets it has rarely looked.
        """
        return (flag or "").strip().upper() == "YES" or bool(find_text(pixels))

    def fingerprint(self) -> str:
        """Changes when the same study would be cleaned otherwise (another key, other rules); says nothing of the key.

        Belongs into what decides whether shards have to be made again.
        """
        key = self._pseudonyms.fingerprint() if self._pseudonyms else "off"
        return f"{key}/{self._scanner.fingerprint()}"

    def apply(self, loaded: LoadedStudy) -> Cleaned | StudyFault:
        """The cleaned study, or the fault for which the policy refuses it (`identifying_text`, `burned_in_text`)."""
        try:
            cleaned = self.examine(loaded.study)
        except IdentifyingTextError as error:
            return StudyFault(code="identifying_text", message=str(error))
        if self.config.burned_in == "off":
            return cleaned
        count = sum(self.burned_in(pixels) for pixels in loaded.pixels)
        if count and self.config.burned_in == "refuse":
            message = f"{count} of {len(loaded.pixels)} images of a study hold lines of text, and burned_in is refuse"
            return StudyFault(code="burned_in_text", message=message)
        return replace(cleaned, burned_in=count)

    def clean(self, study: Study) -> Study:
        """The study as it may be written; see `examine`."""
        return self.examine(study).study

    def examine(self, study: Study) -> Cleaned:
        """The study as it may be written, and what was found in its texts.

        Texts keep their length, so every span stays right.  With keyed pseudonyms no id of the archive is left: not of
        person, study, images, regions, earlier studies, not in groups, and not in texts; paths are left out.

        Raises:
            PrivacyError: if the study was cleaned with this key before, or (`IdentifyingTextError`) its texts hold
                something identifying and the policy is to refuse it.
        """
        if self._pseudonyms and any(map(self._pseudonyms.made, (study.id, study.person.id))):
            raise PrivacyError("the study has pseudonyms of this key already; a study is cleaned once")
        texts = StudyTexts(self.config, self._scanner, days=self.days(study.person.id), ids=self._ids(study))
        report = study.report
        if report is not None:
            report = replace(report, text=texts.clean(report.text))
        cleaned = replace(
            study,
            report=report,
            sentences=tuple(_sentence(sentence, study.report, report, texts) for sentence in study.sentences),
            person=self._person(study.person, texts),
        )
        dates = texts.hits.pop("date", 0)
        if texts.hits and self.config.on_phi == "refuse":
            found = ", ".join(f"{kind} {count}" for kind, count in sorted(texts.hits.items()))
            raise IdentifyingTextError(f"a study's texts hold something identifying ({found}), and on_phi is refuse")
        hits = MappingProxyType(dict(sorted(texts.hits.items())))
        return Cleaned(study=self._renamed(cleaned), hits=hits, dates=dates)

    def _pseudonym(self, domain: Domain, id_: str) -> str:
        return id_ if self._pseudonyms is None else self._pseudonyms.make(domain, id_)

    def _ids(self, study: Study) -> set[str]:
        """The ids that may not stand in the study's texts."""
        if self._pseudonyms is None:
            return set()
        return {study.id, study.person.id, *study.earlier, *(image.id for image in study.images)}

    def _renamed(self, study: Study) -> Study:
        """The study under pseudonyms; its person has one already."""
        if self._pseudonyms is None:
            return study
        return replace(
            study,
            id=self.study(study.id),
            images=tuple(replace(image, id=self.image(image.id), path=None) for image in study.images),
            regions=tuple(replace(region, image=self.image(region.image)) for region in study.regions),
            earlier=tuple(map(self.study, study.earlier)),
        )

    def _person(self, person: Person, texts: StudyTexts) -> Person:
        age = person.age
        if age is not None and self.config.phi_scan != "off":
            age = OLDEST if age > OLDEST - 1 else age
        groups = {name: self._group(value, texts) for name, value in person.groups.items()}
        return replace(person, id=self.person(person.id), age=age, groups=MappingProxyType(groups))

    def _group(self, value: str, texts: StudyTexts) -> str:
        """A group's value; one that identifies is masked, or becomes a pseudonym so that it still groups."""
        cleaned = texts.clean(value)
        if cleaned == value or self._pseudonyms is None:
            return cleaned
        return self._pseudonyms.make("group", value)


class IdentifyingTextError(PrivacyError):
    """A study that the policy refuses for what its texts say."""


def _sentence(sentence: Sentence, before: Report | None, after: Report | None, texts: StudyTexts) -> Sentence:
    """The sentence with a clean text: the report's own words again, or cleaned for itself."""
    if sentence.origin == "labels":
        return sentence
    if before is not None and after is not None:
        span = slice(sentence.start, sentence.end)
        if on_one_line(before.text[span]) == sentence.text:
            return replace(sentence, text=on_one_line(after.text[span]))
    return replace(sentence, text=texts.clean_derived(sentence.text))
