"""What a folder of shards holds, counted from the studies' own descriptions: a data card in numbers.

No pixel is decoded: descriptions and texts are a few kilobytes a study.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vlp import log
from vlp.data.counts import count_patients
from vlp.data.fingerprints import report_digest
from vlp.data.manifest import SPLITS
from vlp.data.reader import ShardReader
from vlp.data.schema import SampleJson
from vlp.records import Certainty, Split

AGE_STEP = 10
"""Years an age group spans."""
UNKNOWN = "unknown"
_PAIRS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """How long texts are, in words or tokens."""

    count: int
    median: int
    p95: int
    largest: int
    histogram: Mapping[int, int]
    """Length -> texts."""

    @classmethod
    def of(cls, histogram: Mapping[int, int]) -> "Lengths | None":
        """None where there is no text."""
        if not histogram:
            return None
        ordered = dict(sorted(histogram.items()))
        total = sum(ordered.values())
        return cls(
            count=total,
            median=_quantile(ordered, 0.5),
            p95=_quantile(ordered, 0.95),
            largest=max(ordered),
            histogram=ordered,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Things that are there more than once, byte for byte or but for case, blanks and punctuation."""

    distinct: int
    """Different ones among all."""
    repeated: int
    """Those that stand beside an equal one that came before."""
    across_splits: int
    """Distinct ones that are in more than one split."""
    most: int
    """How often the commonest one is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two findings that one study has."""

    findings: tuple[str, str]
    studies: int
    lift: float
    """How much more often than if they had nothing to do with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """The figures of a folder of shards.  Counts are of studies unless they say otherwise."""

    name: str
    synthetic: bool
    splits: Mapping[str, Mapping[str, int]]
    """Split -> studies, images, persons, reports, sentences, studies without a sentence."""
    views: Mapping[str, Mapping[str, int]]
    """Split -> view -> images."""
    ages: Mapping[str, Mapping[str, int]]
    """Sex (F, M, unknown) -> first year of an age group, or "unknown" -> studies."""
    sexes: Mapping[str, Mapping[str, int]]
    """Split -> sex -> studies."""
    findings: Mapping[str, Mapping[str, Mapping[str, int]]]
    """Split -> finding -> certainty -> studies labelled so."""
    said: Mapping[str, Mapping[str, int]]
    """Finding -> certainty -> sentences that say so."""
    locations: Mapping[str, int]
    """Place -> sentences, the commonest first."""
    regions: Mapping[str, Mapping[str, int]]
    """Finding -> box, mask, point -> regions."""
    pairs: tuple[Pair, ...]
    """The commonest two findings present in one study."""
    words: Lengths | None
    """Of the sentences as training reads them."""
    tokens: Lengths | None
    """The same in tokens, where a tokenizer was given."""
    report_words: Lengths | None
    sources: Mapping[str, int]
    licenses: Mapping[str, int]
    languages: Mapping[str, int]
    texts: Mapping[str, int]
    """Where the text comes from -> studies."""
    labels_origin: Mapping[str, int]
    sentences_origin: Mapping[str, int]
    groups: Mapping[str, Mapping[str, int]]
    """Name of a group (site, scanner) -> value -> studies, the commonest 20."""
    same_reports: Duplicates | None
    same_images: Duplicates | None
    """Images made from the same file; None where no file's checksum is known."""
    faults: Mapping[str, int]
    """Studies refused when the shards were made."""
    left_out: Mapping[str, int]
    """Studies a rule left out."""

    def values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def make_card(reader: ShardReader, *, count_tokens: Callable[[str], int] | None = None) -> DataCard:
    """Counts everything a data card tells.

    Args:
        reader: the shards.
        count_tokens: tokens of a text, if lengths are wanted in tokens too.

    Raises:
        DataError: where a description is damaged.
    """
    tally = _Tally()
    keys = reader.keys()
    for key in log.progress(keys, description="counting", unit="studies"):
        tally.add(reader.sample_json(key), reader.text(key))
    return tally.card(reader, count_tokens)


@dataclass(slots=True)
class _Same:
    """Digests of things, how often and in which splits they were seen."""

    counts: Counter[bytes] = field(default_factory=Counter)
    splits: dict[bytes, int] = field(default_factory=dict)
    """Digest -> one bit for every split."""

    def add(self, digest: bytes, split: Split) -> None:
        self.counts[digest] += 1
        self.splits[digest] = self.splits.get(digest, 0) | 1 << SPLITS.index(split)

    def duplicates(self) -> Duplicates | None:
        if not self.counts:
            return None
        return Duplicates(
            distinct=len(self.counts),
            repeated=self.counts.total() - len(self.counts),
            across_splits=sum(bits.bit_count() > 1 for bits in self.splits.values()),
            most=max(self.counts.values()),
        )


def _nested() -> "defaultdict[str, Counter[str]]":
    return defaultdict(Counter)


@dataclass(slots=True)
class _Tally:
    """What is counted while studies go by."""

    splits: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    views: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    ages: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    sexes: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    findings: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    said: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    regions: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    groups: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    locations: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)
    report_words: Counter[int] = field(default_factory=Counter)
    facts: defaultdict[str, Counter[str]] = field(default_factory=_nested)
    reports: _Same = field(default_factory=_Same)
    images: _Same = field(default_factory=_Same)

    def add(self, json: SampleJson, text: str) -> None:
        """Takes one study."""
        has_report = json.text_origin == "report"
        self.splits[json.split].update(
            studies=1,
            images=len(json.images),
            reports=int(has_report),
            sentences=len(json.sentences),
            without_sentences=int(not json.sentences),
        )
        self._person(json)
        self._findings(json)
        for image in json.images:
            self.views[json.split][image.view] += 1
            if image.sha256:
                self.images.add(image.sha256.encode(), json.split)
        if has_report:
            self.report_words[len(text.split())] += 1
            self.reports.add(report_digest(text), json.split)
            self.facts["languages"][json.language] += 1
        for name, value in (
            ("sources", json.source),
            ("licenses", json.license or UNKNOWN),
            ("texts", json.text_origin),
            ("labels_origin", json.labels_origin),
        ):
            self.facts[name][value] += 1

    def _person(self, json: SampleJson) -> None:
        person = json.person
        sex = person.sex or UNKNOWN
        decade = UNKNOWN if person.age is None else str(int(person.age // AGE_STEP) * AGE_STEP)
        self.ages[sex][decade] += 1
        self.sexes[json.split][sex] += 1
        for name, value in person.groups.items():
            self.groups[name][value] += 1

    def _findings(self, json: SampleJson) -> None:
        for finding, certainty in json.labels.items():
            self.findings[json.split, finding][certainty.value] += 1
        present = sorted(name for name, certainty in json.labels.items() if certainty is Certainty.PRESENT)
        self.present.update(present)
        self.pairs.update(itertools.combinations(present, 2))
        for sentence in json.sentences:
            self.sentences[sentence.text] += 1
            self.facts["sentences_origin"][sentence.origin] += 1
            if sentence.finding is not None:
                self.said[sentence.finding][sentence.certainty.value] += 1
            if sentence.location is not None:
                self.locations[sentence.location] += 1
        for region in json.regions:
            self.regions[region.finding][region.geometry.kind] += 1

    def card(self, reader: ShardReader, count_tokens: Callable[[str], int] | None) -> DataCard:
        """Everything so far as a card."""
        manifest = reader.manifest
        persons = count_patients(manifest.shards)
        return DataCard(
            name="/".join(reader.folder.resolve().parts[-2:]),
            synthetic=manifest.synthetic,
            splits={
                split: {"persons": persons.get(split, 0), **self.splits[split]}
                for split in SPLITS
                if split in self.splits
            },
            views=_by_split(self.views),
            ages={sex: _by_age(ages) for sex, ages in sorted(self.ages.items())},
            sexes=_by_split(self.sexes),
            findings=self._labels(),
            said=_plain(self.said),
            locations=dict(self.locations.most_common()),
            regions=_plain(self.regions),
            pairs=tuple(self._pair(*pair) for pair in self.pairs.most_common(_PAIRS)),
            words=Lengths.of(_lengths(self.sentences, lambda text: len(text.split()))),
            tokens=Lengths.of(_lengths(self.sentences, count_tokens)) if count_tokens else None,
            report_words=Lengths.of(self.report_words),
            **{name: dict(self.facts[name].most_common()) for name in _FACTS},
            groups={name: dict(counts.most_common(20)) for name, counts in sorted(self.groups.items())},
            same_reports=self.reports.duplicates(),
            same_images=self.images.duplicates(),
            faults=dict(manifest.faults),
            left_out=dict(manifest.left_out),
        )

    def _labels(self) -> dict[str, dict[str, dict[str, int]]]:
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (split, finding), counts in sorted(self.findings.items()):
            found.setdefault(split, {})[finding] = dict(counts)
        return {split: found[split] for split in SPLITS if split in found}

    def _pair(self, findings: tuple[str, str], studies: int) -> Pair:
        one, two = (self.present[finding] for finding in findings)
        total = sum(split["studies"] for split in self.splits.values())
        return Pair(findings=findings, studies=studies, lift=round(studies * total / (one * two), 2))


_FACTS = ("sources", "licenses", "languages", "texts", "labels_origin", "sentences_origin")


def _lengths(texts: Mapping[str, int], measure: Callable[[str], int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for text, times in texts.items():
        found[measure(text)] += times
    return found


def _quantile(histogram: Mapping[int, int], share: float) -> int:
    """Smallest length that at least `share` of the texts do not exceed."""
    wanted, seen = math.ceil(share * sum(histogram.values())), 0
    for length, count in histogram.items():
        seen += count
        if seen >= wanted:
            return length
    raise AssertionError("a histogram without texts")


def _by_split(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {split: dict(counts[split].most_common()) for split in SPLITS if split in counts}


def _by_age(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (item[0] == UNKNOWN, item[0].zfill(6))))


def _plain(counts: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]]:
    return {name: dict(counts[name]) for name in sorted(counts, key=lambda name: (-counts[name].total(), name))}
