"""Who the phantom patients are and what befalls them: a small model of disease over time.

Every finding has a hidden standard normal score, a weighted sum of what the person is (age, heart, smoking ...),
how ill the person is on the day, and a remainder that drifts between studies.  The finding is present while its score
is above the quantile its prevalence asks for, and the further above, the more severe.  So prevalences hold exactly,
findings that share causes come together, and findings appear, grow, shrink and resolve.
"""

import math
import zlib
from collections.abc import Mapping
from itertools import pairwise
from statistics import NormalDist

import numpy as np
from pydantic import Field, field_validator, model_validator

from vlp.config import Config
from vlp.ingest.phantom.places import Place, Wardrobe, places, wardrobe
from vlp.ingest.phantom.truth import FINDINGS, Body, Exposure, PlacedFinding, Side, StudyTruth

PREVALENCE: Mapping[str, float] = {
    "pleural effusion": 0.14,
    "pneumothorax": 0.105,
    "consolidation": 0.125,
    "atelectasis": 0.135,
    "edema": 0.115,
    "cardiomegaly": 0.14,
    "nodule": 0.105,
    "mass": 0.10,
    "emphysema": 0.11,
    "fibrosis": 0.105,
    "fracture": 0.105,
    "hernia": 0.10,
    "pleural thickening": 0.105,
    "support device": 0.135,
}
"""Share of studies in which each finding is present, unless a configuration says otherwise."""

_CAUSES: Mapping[str, Mapping[str, float]] = {
    "pleural effusion": {"ill": 0.40, "heart": 0.35, "basal": 0.50},
    "pneumothorax": {"ill": 0.25, "trauma": 0.40},
    "consolidation": {"ill": 0.50},
    "atelectasis": {"ill": 0.40, "basal": 0.55},
    "edema": {"ill": 0.45, "heart": 0.60},
    "cardiomegaly": {"heart": 0.75, "age": 0.20},
    "nodule": {"smoke": 0.35, "age": 0.35, "tumour": 0.30},
    "mass": {"smoke": 0.35, "age": 0.25, "tumour": 0.50},
    "emphysema": {"smoke": 0.70, "age": 0.35},
    "fibrosis": {"smoke": 0.30, "age": 0.50},
    "fracture": {"trauma": 0.50, "age": 0.35},
    "hernia": {"age": 0.55},
    "pleural thickening": {"smoke": 0.30, "age": 0.40, "basal": 0.15},
    "permanent device": {"heart": 0.60, "age": 0.45},
    "temporary device": {"ill": 0.75},
}
"""Weights of the causes in each hidden score; their squares sum to less than 1."""

_LASTING_CAUSES = ("age", "heart", "smoke", "tumour")
_PASSING_CAUSES: Mapping[str, float] = {"ill": 25.0, "basal": 40.0, "trauma": 60.0}
"""Days after which each has forgotten 63 % of itself."""

_MEMORY_DAYS: Mapping[str, float] = {
    "pleural effusion": 60.0,
    "pneumothorax": 30.0,
    "consolidation": 30.0,
    "atelectasis": 40.0,
    "edema": 30.0,
    "cardiomegaly": 4000.0,
    "nodule": 2500.0,
    "mass": 1500.0,
    "fracture": 250.0,
    "temporary device": 30.0,
}
"""The same for the remainders; findings not named here never leave."""

_PROGRESSIVE = frozenset({"emphysema", "fibrosis"})
_LEAST_SEVERITY = 0.12
_PERMANENT_SHARE = 0.4
_NUM_STUDIES_SHARES = (0.38, 0.30, 0.20, 0.12)
_NORMAL = NormalDist()


class SiteMarker(Config):
    """A mark in the corner of one site's images, and a finding that is more common there."""

    site: str
    finding: str
    prevalence: float = Field(gt=0.0, lt=1.0)
    """Share of this site's studies with the finding; other sites' share falls so that the overall one stays."""


class Confounders(Config):
    """Shortcuts planted on purpose; all off by default."""

    chest_tube: float | None = Field(default=None, ge=0.0, le=1.0)
    """Chance that a pneumothorax comes with a chest tube on its side; None: tubes come regardless of it."""
    site_marker: SiteMarker | None = None


class HistoryConfig(Config):
    """What the phantom population is like."""

    prevalence: dict[str, float] = Field(default_factory=lambda: dict(PREVALENCE))
    """Share of studies per finding; findings left out keep their defaults."""
    sites: tuple[str, ...] = Field(default=("north", "harbour", "university"), min_length=1)
    max_studies: int = Field(default=4, ge=1, le=4)
    """Most studies one person has."""
    lateral: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of PA studies with a lateral view."""
    confounders: Confounders = Confounders()

    @field_validator("prevalence")
    @classmethod
    def _complete(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(value) - set(FINDINGS))
        if unknown:
            raise ValueError(f"unknown finding {unknown[0]!r}; known: {', '.join(FINDINGS)}")
        if not all(0.0 < share < 1.0 for share in value.values()):
            raise ValueError("every prevalence lies between 0 and 1")
        return dict(PREVALENCE) | value

    @model_validator(mode="after")
    def _marker_fits(self) -> "HistoryConfig":
        marker = self.confounders.site_marker
        if marker is not None and (marker.site not in self.sites or marker.finding not in FINDINGS):
            raise ValueError("confounders.site_marker names a site or finding that does not exist")
        return self


def person(index: int, *, seed: int, settings: HistoryConfig) -> tuple[StudyTruth, ...]:
    """All studies of patient `index`, oldest first; a function of its arguments and of nothing else."""
    streams = _Streams(seed=seed, index=index)
    site = settings.sites[int(streams.of("site").integers(len(settings.sites)))]
    days = _study_days(streams.of("days"), settings.max_studies)
    causes = _causes(streams, days)
    body = _body(streams.of("body"), age_score=causes["age"][0])
    severities = {
        name: _severities(name, _scores(name, causes, days, streams), days, _share(name, site, settings))
        for name in _CAUSES
    }
    found = {name: places(name, streams.of("place " + name)) for name in FINDINGS if name != "support device"}
    devices = wardrobe(streams.of("devices"))
    studies: list[StudyTruth] = []
    for order, day in enumerate(days):
        now = {name: values[order] for name, values in severities.items()}
        findings = _place_all(now, found)
        on_day = streams.of("day", order)
        worn = _devices(now, findings, devices, ill=causes["ill"][order], generator=on_day, settings=settings)
        sick = causes["ill"][order] + 0.9 * now["edema"] + 0.4 * now["pleural effusion"]
        exposure = _exposure(on_day, site, sick=sick, devices=worn, settings=settings)
        identity = f"phantom-{index:06d}"
        studies.append(
            StudyTruth(
                id=f"{identity}-{order}",
                person=identity,
                order=order,
                days=day,
                body=Body(
                    age=body.age + day / 365.25, sex=body.sex, size=body.size, habitus=body.habitus, seed=body.seed
                ),
                exposure=exposure,
                findings=findings + worn,
                earlier=studies[-1] if studies else None,
            )
        )
    return tuple(studies)


class _Streams:
    """Independent random streams by name, so that one decision never shifts another."""

    def __init__(self, *, seed: int, index: int) -> None:
        self._seed, self._index = seed, index

    def of(self, name: str, number: int = 0) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._index, zlib.crc32(name.encode()), number])


def _study_days(generator: np.random.Generator, max_studies: int) -> tuple[int, ...]:
    count = min(1 + int(generator.choice(len(_NUM_STUDIES_SHARES), p=_NUM_STUDIES_SHARES)), max_studies)
    days = [0]
    for _ in range(count - 1):
        low, high = ((1, 5), (10, 60), (90, 900))[int(generator.choice(3, p=(0.35, 0.3, 0.35)))]
        days.append(days[-1] + int(generator.integers(low, high)))
    return tuple(days)


def _drift(generator: np.random.Generator, days: tuple[int, ...], memory_days: float) -> list[float]:
    """A stationary standard normal process (Ornstein-Uhlenbeck) read on the given days."""
    values = [float(generator.standard_normal())]
    for earlier, later in pairwise(days):
        kept = math.exp(-(later - earlier) / memory_days)
        values.append(kept * values[-1] + math.sqrt(1.0 - kept**2) * float(generator.standard_normal()))
    return values


def _causes(streams: _Streams, days: tuple[int, ...]) -> dict[str, list[float]]:
    memories = dict.fromkeys(_LASTING_CAUSES, math.inf) | dict(_PASSING_CAUSES)
    return {name: _drift(streams.of("cause " + name), days, memory) for name, memory in memories.items()}


def _scores(name: str, causes: dict[str, list[float]], days: tuple[int, ...], streams: _Streams) -> list[float]:
    weights = _CAUSES[name]
    rest = math.sqrt(1.0 - sum(weight**2 for weight in weights.values()))
    own = _drift(streams.of("own " + name), days, _MEMORY_DAYS.get(name, math.inf))
    lasting = name not in _MEMORY_DAYS
    return [
        rest * own[order] + sum(weight * causes[cause][0 if lasting else order] for cause, weight in weights.items())
        for order in range(len(days))
    ]


def _severities(name: str, scores: list[float], days: tuple[int, ...], share: float) -> list[float]:
    """Severity on each day, 0 where the finding is absent; uniform over its range where present."""
    severities = []
    for score, day in zip(scores, days, strict=True):
        excess = 1.0 - (1.0 - _NORMAL.cdf(score)) / share
        severity = _LEAST_SEVERITY + (1.0 - _LEAST_SEVERITY) * excess if excess > 0.0 else 0.0
        progress = 1.0 - 0.35 * math.exp(-day / 500.0) if name in _PROGRESSIVE else 1.0
        severities.append(severity and max(_LEAST_SEVERITY, severity * progress))
    return severities


def _share(name: str, site: str, settings: HistoryConfig) -> float:
    """Prevalence of a finding, or of one of the two ways to wear a device, at one site."""
    if not name.endswith(" device"):
        return _site_share(name, site, settings)
    wanted = _site_share("support device", site, settings)
    permanent = wanted * _PERMANENT_SHARE
    if name == "permanent device":
        return permanent
    # Tubes that follow a pneumothorax are devices too; the rest is made rarer to keep the prevalence.
    tubes = (settings.confounders.chest_tube or 0.0) * _site_share("pneumothorax", site, settings)
    return max(0.01, 1.0 - (1.0 - wanted) / ((1.0 - permanent) * (1.0 - tubes)))


def _site_share(finding: str, site: str, settings: HistoryConfig) -> float:
    share = settings.prevalence[finding]
    marker = settings.confounders.site_marker
    if marker is None or marker.finding != finding or len(settings.sites) == 1:
        return share
    if site == marker.site:
        return marker.prevalence
    weight = 1.0 / len(settings.sites)
    return max(0.005, (share - weight * marker.prevalence) / (1.0 - weight))


def _body(generator: np.random.Generator, *, age_score: float) -> Body:
    sex = "F" if generator.random() < 0.48 else "M"
    size = (0.95 if sex == "F" else 1.04) + 0.045 * float(np.clip(generator.standard_normal(), -2.0, 2.0))
    habitus = float(np.clip(0.45 * generator.standard_normal(), -1.0, 1.0))
    age = 18.0 + 74.0 * _NORMAL.cdf(age_score + 0.35)
    return Body(age=age, sex=sex, size=size, habitus=habitus, seed=int(generator.integers(2**31)))  # type: ignore[arg-type]


def _place_all(severities: Mapping[str, float], found: Mapping[str, tuple[Place, ...]]) -> tuple[PlacedFinding, ...]:
    return tuple(
        PlacedFinding(
            name=name,
            side=place.side,
            zone=place.zone,
            severity=max(_LEAST_SEVERITY, severities[name] * place.share),
            seed=place.seed,
        )
        for name, there in found.items()
        if severities[name] > 0.0
        for place in there
    )


def _devices(
    severities: Mapping[str, float],
    findings: tuple[PlacedFinding, ...],
    devices: Wardrobe,
    *,
    ill: float,
    generator: np.random.Generator,
    settings: HistoryConfig,
) -> tuple[PlacedFinding, ...]:
    names: list[tuple[str, Side | None]] = []
    if severities["permanent device"] > 0.0:
        names += [(name, "left" if name == "pacemaker" else None) for name in devices.permanent]
    if severities["temporary device"] > 0.0:
        worn = devices.intensive if ill > 1.0 else devices.bedside
        names += [(name, devices.central_side if name.startswith("central") else None) for name in worn]
    by_chance, by_rule = generator.random(2)
    if severities["temporary device"] > 0.0 and by_chance < 0.15:
        names.append(("chest tube", devices.chest_tube_side))
    for finding in findings:
        if finding.name == "pneumothorax" and by_rule < (settings.confounders.chest_tube or 0.0):
            names = [entry for entry in names if entry[0] != "chest tube"] + [("chest tube", finding.side)]
    return tuple(
        PlacedFinding(name="support device", side=side, device=name, seed=devices.seeds[number])
        for number, (name, side) in enumerate(sorted(names, key=lambda entry: entry[0]))
    )


def _exposure(
    generator: np.random.Generator,
    site: str,
    *,
    sick: float,
    devices: tuple[PlacedFinding, ...],
    settings: HistoryConfig,
) -> Exposure:
    """Sicker people are radiographed in bed: from the front, rotated, and breathing less deeply."""
    intubated = any(device.device == "endotracheal tube" for device in devices)
    bedside = bool(generator.random() < _NORMAL.cdf((sick - 0.8) / 0.6)) or intubated
    lateral = bool(generator.random() < settings.lateral) and not bedside
    rotation, tilt = generator.standard_normal(2) * ((4.0, 4.0) if bedside else (2.0, 2.0))
    inspiration = generator.beta(3.0, 2.5) if bedside else generator.beta(7.0, 2.0)
    # Each site has two scanners of its own: a fixed one and a mobile one.
    scanner = 2 * settings.sites.index(site) + int(bedside)
    marker = settings.confounders.site_marker
    return Exposure(
        frontal="AP" if bedside else "PA",
        lateral=lateral,
        rotation_deg=float(np.clip(rotation, -9.0, 9.0)),
        tilt_deg=float(np.clip(tilt, -9.0, 9.0)),
        inspiration=float(inspiration),
        scanner=scanner,
        site=site,
        marker=bool(generator.random() < 0.8),
        site_marker=marker is not None and marker.site == site,
        seed=int(generator.integers(2**31)),
    )
