"""Intervals by resampling patients: all rows of a person are drawn together, the same draws serve every statistic.

A resample is a multiplicity per patient, so a statistic is a function of row weights and a thousand resamples are
one matrix product.  Resampling rows instead would treat a person's studies as independent and give intervals that
are far too narrow.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vlp.errors import DataError
from vlp.metrics.estimate import DEGENERATE, NO_ROWS, ONE_CLASS, TOO_MANY_NULLS, UNDEFINED_RESAMPLES, Estimate

MAX_UNDEFINED_RESAMPLES = 0.05
MAX_UNDEFINED_MEMBERS = 0.20
"""Of a macro average; beyond it the average would be of another list than the one declared."""
MAX_MISSING_IN_RESAMPLE = 0.50
"""Members a single resample may lack: rare findings have no positive in some draws, which widens the interval."""
_NO_WIDTH = 1e-12
_CHUNK_ELEMENTS = 4_000_000
"""Weights held at once; bounds memory at 32 MB however many rows there are."""

Statistic = Callable[[Float[np.ndarray, "resample row"]], Float[np.ndarray, " resample"]]
"""From row weights to values; NaN where a resample leaves the statistic undefined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A statistic's value together with its value on every resample: what an `Estimate` summarises."""

    value: float
    """NaN if undefined."""
    resampled: Float[np.ndarray, " resample"]
    n: int
    n_patients: int
    n_positive: int
    undefined: tuple[str, ...] = ()

    def estimate(self, *, level: float = 0.95, reason: str = ONE_CLASS) -> Estimate:
        """The percentile interval; `reason` is the code given where the value itself is undefined."""
        num, missing = len(self.resampled), int(np.isnan(self.resampled).sum())
        method = f"percentile interval, {num} resamples of patients" + (f", {missing} undefined" if missing else "")
        low = high = None
        why: str | None = None
        if np.isnan(self.value):
            why = NO_ROWS if self.n == 0 else reason
        elif num == 0 or missing > MAX_UNDEFINED_RESAMPLES * num:
            why = UNDEFINED_RESAMPLES
        else:
            tail = (1.0 - level) / 2.0
            low, high = (float(edge) for edge in np.nanquantile(self.resampled, (tail, 1.0 - tail)))
            if high - low <= _NO_WIDTH:
                # Perfect separation, or one patient: no width would claim certainty that a handful of rows cannot give.
                low, high, why = None, None, DEGENERATE
        return Estimate(
            value=None if np.isnan(self.value) else float(self.value),
            low=low,
            high=high,
            level=level,
            n=self.n,
            n_patients=self.n_patients,
            n_positive=self.n_positive,
            method=method,
            reason=why,
            undefined=self.undefined,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Resamples:
    """Patients drawn with replacement, shared by all statistics of a task so that their differences are paired."""

    patients: tuple[str, ...]
    """Distinct patients, sorted, so that the order of rows cannot change a result."""
    multiplicity: Int[np.ndarray, "resample patient"]
    """How often each patient was drawn."""

    @classmethod
    def draw(cls, patients: Sequence[Hashable], *, resamples: int = 1000, seed: int = 0) -> "Resamples":
        """`resamples` draws of as many patients as there are distinct ones in `patients` (repetition is fine)."""
        distinct = tuple(sorted({str(patient) for patient in patients}))
        num = len(distinct)
        multiplicity = np.zeros((resamples, num), dtype=np.int32)
        if num:
            drawn = np.random.Generator(np.random.PCG64(seed)).integers(num, size=(resamples, num))
            for row, indices in enumerate(drawn):
                multiplicity[row] = np.bincount(indices, minlength=num)
        return cls(patients=distinct, multiplicity=multiplicity)

    def sample(self, statistic: Statistic, patients: Sequence[Hashable], *, n_positive: int = 0) -> Sampled:
        """The statistic over rows that belong to `patients` (one per row), on all rows and on every resample.

        Patients without a row simply contribute nothing; that keeps the draws equal across labels.

        Raises:
            DataError: if a row belongs to a patient who was not among those drawn from.
        """
        position = {patient: index for index, patient in enumerate(self.patients)}
        names = [str(patient) for patient in patients]
        if any(name not in position for name in names):
            raise DataError("a scored row belongs to a patient outside the resampled set; draw from all patients")
        column = np.array([position[name] for name in names], dtype=np.intp)
        value = float(statistic(np.ones((1, len(names))))[0]) if names else float("nan")
        num_resamples = len(self.multiplicity)
        resampled = np.full(num_resamples, np.nan)
        step = max(1, _CHUNK_ELEMENTS // max(1, len(names)))
        if names and not np.isnan(value):
            for start in range(0, num_resamples, step):
                weights = self.multiplicity[start : start + step][:, column].astype(np.float64)
                resampled[start : start + step] = statistic(weights)
        return Sampled(
            value=value, resampled=resampled, n=len(names), n_patients=len(set(names)), n_positive=n_positive
        )


def patient_bootstrap(
    statistic: Statistic,
    patients: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    n_positive: int = 0,
) -> Estimate:
    """A percentile interval for `statistic`, which maps row weights to values, by resampling `patients`.

    Args:
        statistic: from weights [resample row] to values [resample], NaN where undefined.
        patients: the patient of each row.
        resamples: how many draws; those without a value are counted in the method, above 5 % there is no interval.
        seed: of the PCG64 generator.
        level: confidence level.
        n_positive: positive rows, carried into the estimate.
    """
    draws = Resamples.draw(patients, resamples=resamples, seed=seed)
    return draws.sample(statistic, patients, n_positive=n_positive).estimate(level=level)


def macro(members: dict[str, Sampled]) -> Sampled:
    """The mean over a declared list of members, undefined ones listed and left out.

    Undefined if more than 20 % of the members are.  A resample is undefined if more than half of the members that
    have a value are undefined in it, since a rare finding has no positive in some draws.
    """
    values = np.array([member.value for member in members.values()])
    defined = [member.resampled for member in members.values() if not np.isnan(member.value)]
    resampled = np.stack(defined) if defined else np.zeros((0, 0))
    # The largest set stands for the patients of the average, since members may lack rows of some patients.
    return Sampled(
        value=float(_tolerant_mean(values[:, None], MAX_UNDEFINED_MEMBERS)[0]),
        resampled=_tolerant_mean(resampled, MAX_MISSING_IN_RESAMPLE),
        n=max((member.n for member in members.values()), default=0),
        n_patients=max((member.n_patients for member in members.values()), default=0),
        n_positive=sum(member.n_positive for member in members.values()),
        undefined=tuple(name for name, member in members.items() if np.isnan(member.value)),
    )


def macro_estimate(members: dict[str, Sampled], *, level: float = 0.95) -> Estimate:
    """`macro` with its interval; where it is undefined the reason says that too many members are."""
    return macro(members).estimate(level=level, reason=TOO_MANY_NULLS)


def ratio(above: Sampled, below: Sampled) -> Sampled:
    """The quotient of two statistics of the same rows and the same draws, so that its interval is paired."""
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = above.resampled / below.resampled
        value = np.float64(above.value) / np.float64(below.value)
    return Sampled(
        value=float(value) if np.isfinite(value) else float("nan"),
        resampled=np.where(np.isfinite(resampled), resampled, np.nan),
        n=above.n,
        n_patients=above.n_patients,
        n_positive=above.n_positive,
    )


def weighted_mean(values: Float[np.ndarray, " row"]) -> Statistic:
    """The mean over rows as a statistic of their weights."""
    fixed = np.asarray(values, dtype=np.float64)

    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        return _divide(weights @ fixed, weights.sum(axis=1))

    return statistic


def mean_over_patients(values: Float[np.ndarray, " row"], patients: Sequence[Hashable]) -> Statistic:
    """The mean over patients of each patient's mean, so that no one counts more for having come more often."""
    names = [str(patient) for patient in patients]
    counts = Counter(names)
    share = np.array([1.0 / counts[name] for name in names])
    fixed = np.asarray(values, dtype=np.float64) * share

    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        return _divide(weights @ fixed, weights @ share)

    return statistic


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: np.ndarray = np.where(below > 0, above / below, np.nan)
    return quotient


def _tolerant_mean(values: Any, tolerance: float) -> np.ndarray:
    """Column means over the defined entries; NaN where a larger share of a column than `tolerance` is undefined."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=0)
    mean = _divide(total, defined.sum(axis=0))
    enough = (~defined).sum(axis=0) <= tolerance * len(values)
    result: np.ndarray = np.where(enough, mean, np.nan)
    return result
