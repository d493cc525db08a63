"""How the descriptors of a finding become one score: by a declared rule whose parts add up to it exactly.

Every rule has the same form.  Descriptor d of finding f has the probability p_d of its pair of sentences, and

    total_f = offset_f + sum_d contribution_d            score_f = link(total_f)

    geometric mean    offset log 1/2    contribution (log p_d - log 1/2) / n_f     link exp      (Xplainer, 2023)
    log odds          offset b_f        contribution w_d logit p_d                 link sigma

A contribution is 0 where its descriptor is undecided (p_d = 1/2), so what the score were if it was is had by
subtraction.  The geometric mean weighs all descriptors alike; the weights and biases of the log odds are fitted on a
calibration split (`vlp.calibrate.weights`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from vlp.errors import DataError

CLIP = 1e-6
"""Probabilities are kept this far from 0 and 1, so that one descriptor cannot veto all others by itself."""
PoolingKind = Literal["geometric_mean", "log_odds"]
Scale = Literal["log", "logit"]

_UNDECIDED = float(np.log(0.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Which columns of an array [image descriptor] belong to which finding."""

    findings: tuple[str, ...]
    ids: tuple[str, ...]
    """Ids of all descriptors, those of one finding side by side, in the order of `findings`."""
    starts: tuple[int, ...]
    """Where each finding's descriptors begin in `ids`."""

    @property
    def counts(self) -> tuple[int, ...]:
        """How many descriptors each finding has."""
        return tuple(int(count) for count in np.diff((*self.starts, len(self.ids))))

    def columns(self, finding: int) -> slice:
        """The columns of the finding with this number."""
        return slice(self.starts[finding], self.starts[finding] + self.counts[finding])

    def sums(self, values: Float[np.ndarray, "image descriptor"]) -> Float[np.ndarray, "image finding"]:
        """Per finding the sum over its descriptors; 0 for a finding that has none."""
        # reduceat knows no empty group: it would give the first value of the next.
        filled = np.array(self.counts) > 0
        result = np.zeros((len(values), len(self.findings)))
        if filled.any():
            result[:, filled] = np.add.reduceat(values, np.array(self.starts)[filled], axis=1)
        return result


class Pooling(ABC):
    """A rule that makes the score of a finding of its descriptors' probabilities."""

    kind: ClassVar[PoolingKind]
    scale: ClassVar[Scale]
    """Of which the total is the value: log score, or logit of the score."""

    @abstractmethod
    def offsets(self, groups: Groups) -> Float[np.ndarray, " finding"]:
        """The total of a finding all of whose descriptors are undecided."""

    @abstractmethod
    def contributions(
        self, probability: Float[np.ndarray, "image descriptor"], groups: Groups
    ) -> Float[np.ndarray, "image descriptor"]:
        """Each descriptor's share in the total of its finding; positive speaks for the finding.

        Raises:
            DataError: for a descriptor the rule was not fitted for.
        """

    @abstractmethod
    def link(self, totals: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The score in (0, 1) of a total; strictly increasing."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The rule with every number in it, as plain values; `from_json` reads it."""

    def totals(
        self, probability: Float[np.ndarray, "image descriptor"], groups: Groups
    ) -> Float[np.ndarray, "image finding"]:
        """Offset plus the sum of the contributions: log score, or logit of the score, see `scale`."""
        totals: np.ndarray = self.offsets(groups) + groups.sums(self.contributions(probability, groups))
        return totals

    def pool(
        self, probability: Float[np.ndarray, "image descriptor"], groups: Groups
    ) -> Float[np.ndarray, "image finding"]:
        """The score of every finding, in (0, 1)."""
        return self.link(self.totals(probability, groups))


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricMean(Pooling):
    """exp(mean_d log p_d): all descriptors count alike, and each is held against the finding where it is missing."""

    kind: ClassVar[PoolingKind] = "geometric_mean"
    scale: ClassVar[Scale] = "log"
    clip: float = CLIP
    """How far probabilities are kept from 0 and 1."""

    def offsets(self, groups: Groups) -> Float[np.ndarray, " finding"]:
        """Log 1/2 for every finding."""
        return np.full(len(groups.findings), _UNDECIDED)

    def contributions(
        self, probability: Float[np.ndarray, "image descriptor"], groups: Groups
    ) -> Float[np.ndarray, "image descriptor"]:
        """(log p_d - log 1/2) / number of descriptors of the finding."""
        logs = np.log(np.clip(probability, self.clip, 1.0 - self.clip))
        shares: np.ndarray = (logs - _UNDECIDED) / np.repeat(groups.counts, groups.counts)
        return shares

    def link(self, totals: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Exp."""
        return LINKS[self.scale](totals)

    def to_json(self) -> dict[str, Any]:
        """The rule as plain values."""
        return {"kind": self.kind, "clip": self.clip}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOdds(Pooling):
    """sigma(b + sum_d w_d logit p_d): weights fitted on a calibration split.

    A finding that nothing was fitted for (it has no bias) counts its descriptors alike: w_d = 1 / n, b = 0.
    """

    kind: ClassVar[PoolingKind] = "log_odds"
    scale: ClassVar[Scale] = "logit"
    weights: Mapping[str, float] = field(default_factory=dict)
    """By descriptor id."""
    bias: Mapping[str, float] = field(default_factory=dict)
    """By finding."""

    def offsets(self, groups: Groups) -> Float[np.ndarray, " finding"]:
        """The bias of each finding."""
        return np.array([float(self.bias.get(finding, 0.0)) for finding in groups.findings])

    def weights_of(self, groups: Groups) -> Float[np.ndarray, " descriptor"]:
        """The weight of every descriptor.

        Raises:
            DataError: for a descriptor without one, of a finding that was fitted.
        """
        weights: list[float] = []
        for number, (finding, count) in enumerate(zip(groups.findings, groups.counts, strict=True)):
            ids = groups.ids[groups.columns(number)]
            if finding not in self.bias:
                weights += [1.0 / count] * count
                continue
            missing = [name for name in ids if name not in self.weights]
            if missing:
                raise DataError(
                    f"no weight was fitted for the descriptor {missing[0]!r} of {finding!r}; "
                    "calibrate with the descriptors and prompts in use, or pool by geometric mean"
                )
            weights += [float(self.weights[name]) for name in ids]
        return np.array(weights)

    def contributions(
        self, probability: Float[np.ndarray, "image descriptor"], groups: Groups
    ) -> Float[np.ndarray, "image descriptor"]:
        """w_d log(p_d / (1 - p_d))."""
        shares: np.ndarray = self.weights_of(groups) * logit(probability)
        return shares

    def link(self, totals: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """The logistic function."""
        return LINKS[self.scale](totals)

    def to_json(self) -> dict[str, Any]:
        """The rule as plain values."""
        return {"kind": self.kind, "weights": dict(self.weights), "bias": dict(self.bias)}


def from_json(content: Mapping[str, Any]) -> Pooling:
    """The rule that `Pooling.to_json` wrote.

    Raises:
        DataError: if it is none.
    """
    try:
        if content["kind"] == GeometricMean.kind:
            return GeometricMean(clip=float(content.get("clip", CLIP)))
        if content["kind"] == LogOdds.kind:
            return LogOdds(
                weights={str(name): float(value) for name, value in content["weights"].items()},
                bias={str(name): float(value) for name, value in content["bias"].items()},
            )
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise DataError("the pooling rule is not one of geometric_mean (clip) and log_odds (weights, bias)")


def logit(probability: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """log(p / (1 - p)) of probabilities kept `CLIP` away from 0 and 1."""
    clipped = np.clip(probability, CLIP, 1.0 - CLIP)
    result: np.ndarray = np.log(clipped) - np.log1p(-clipped)
    return result


def sigma(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The logistic function, by way of tanh, which does not overflow."""
    result: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * np.asarray(values)))
    return result


LINKS: Mapping[Scale, Callable[[Any], Any]] = MappingProxyType({"log": np.exp, "logit": sigma})
"""The way from a total to its score."""
