"""What a manifest reports of its studies, added up study by study, shard by shard, and part by part."""

from collections import Counter
from collections.abc import Iterable, Mapping

from pydantic import Field

from vlp.config import Config
from vlp.data.manifest import SPLITS, Manifest, Shard, SplitCounts
from vlp.data.packing import PackedStudy
from vlp.data.schema import Count
from vlp.records import Certainty, Split

_SUMMED = ("studies", "images", "sentences", "without_sentences")


class Counts(Config):
    """The figures of some studies; the fields are the manifest's own.  Persons are counted over all shards at once."""

    splits: dict[Split, SplitCounts] = Field(default_factory=dict)
    labels_origin: dict[str, Count] = Field(default_factory=dict)
    sentences_origin: dict[str, Count] = Field(default_factory=dict)
    licenses: dict[str, Count] = Field(default_factory=dict)
    synthetic: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Counts":
        """The figures a manifest reports."""
        return cls(**{name: getattr(manifest, name) for name in cls.model_fields})


class Sums:
    """Figures that grow."""

    def __init__(self) -> None:
        self._splits: dict[Split, Counter[str]] = {}
        self._findings: dict[Split, dict[str, Counter[Certainty]]] = {}
        self._labels_origin: Counter[str] = Counter()
        self._sentences_origin: Counter[str] = Counter()
        self._licenses: Counter[str] = Counter()
        self._synthetic = False

    @property
    def num_mute(self) -> int:
        """Studies without a sentence."""
        return sum(split["without_sentences"] for split in self._splits.values())

    def study(self, study: PackedStudy) -> None:
        """Adds one study."""
        sentences = sum(study.sentences.values())
        split = self._splits.setdefault(study.split, Counter())
        # One by one: `Counter.update` takes several times as long, for every study of an archive.
        split["studies"] += 1
        split["images"] += len(study.views)
        split["sentences"] += sentences
        split["without_sentences"] += not sentences
        findings = self._findings.setdefault(study.split, {})
        for finding, certainty in study.labels.items():
            findings.setdefault(finding, Counter())[certainty] += 1
        for origin, count in study.sentences.items():
            self._sentences_origin[origin] += count
        self._labels_origin[study.labels_origin] += 1
        self._licenses[study.license] += 1
        self._synthetic |= study.synthetic

    def counts(self, counts: Counts) -> None:
        """Adds what others have counted."""
        for split, one in counts.splits.items():
            self._splits.setdefault(split, Counter()).update({name: getattr(one, name) for name in _SUMMED})
            findings = self._findings.setdefault(split, {})
            for finding, by_certainty in one.findings.items():
                findings.setdefault(finding, Counter()).update(by_certainty)
        self._labels_origin.update(counts.labels_origin)
        self._sentences_origin.update(counts.sentences_origin)
        self._licenses.update(counts.licenses)
        self._synthetic |= counts.synthetic

    def total(self, patients: Mapping[Split, int] | None = None) -> Counts:
        """The figures so far; `patients` says how many persons each split has."""
        return Counts(
            splits={split: self._split(split, patients or {}) for split in SPLITS if split in self._splits},
            labels_origin=dict(sorted(self._labels_origin.items())),
            sentences_origin=dict(sorted(self._sentences_origin.items())),
            licenses=dict(sorted(self._licenses.items())),
            synthetic=self._synthetic,
        )

    def _split(self, split: Split, patients: Mapping[Split, int]) -> SplitCounts:
        return SplitCounts(
            **{name: self._splits[split][name] for name in _SUMMED},
            patients=patients.get(split, 0),
            findings={name: dict(sorted(counts.items())) for name, counts in sorted(self._findings[split].items())},
        )


def count_patients(shards: Iterable[Shard]) -> dict[Split, int]:
    """Persons per split."""
    persons: dict[Split, set[str]] = {}
    for shard in shards:
        persons.setdefault(shard.split, set()).update(sample.patient for sample in shard.samples)
    return {split: len(names) for split, names in persons.items()}
