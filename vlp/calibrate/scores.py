"""From scores to probabilities: three kinds of rising maps, and what they are worth on patients they have not seen.

Formulae are in `vlp.inference.calibration`.  Everything that is reported is cross-validated by patient: the map and
the conformal quantiles are learned without a patient's studies before they are applied to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from vlp.calibrate import conformal
from vlp.inference.calibration import Figures, Isotonic, Platt, ScoreMap, Temperature, possible
from vlp.inference.pooling import logit
from vlp.metrics.calibration import brier, expected_calibration_error

ENOUGH_FOR_ISOTONIC = 200
"""Studies of each label; with fewer, steps follow the noise."""
LEAST = 10
"""Studies of each label without which nothing is learned: with 9 a quantile for alpha = .1 exists at all."""
_PLATT_SHARE = 0.02
"""Of a Platt map in an isotonic one, so that no two scores have one probability."""
_TEMPERATURES = (1e-2, 1e2)
_ROUNDS = 2000

FittedMethod = Literal["temperature", "platt", "isotonic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The labelled studies of one finding."""

    logits: Float[np.ndarray, " study"]
    """Of the pooled score that is calibrated."""
    similarity: Float[np.ndarray, " study"]
    """The score as it is without any calibration: what "before" means."""
    labels: Int[np.ndarray, " study"]
    """1 or 0."""
    folds: Int[np.ndarray, " study"]
    """The part of the patients that the study's belongs to."""

    @property
    def positives(self) -> int:
        """Studies with the finding."""
        return int(self.labels.sum())

    def lacks(self) -> str | None:
        """Why nothing can be learned from the table, or None."""
        for label, name in ((1, "with"), (0, "without")):
            of_label = self.labels == label
            if of_label.sum() < LEAST:
                return f"{int(of_label.sum())} studies {name} it, fewer than {LEAST}"
            if len(set(self.folds[of_label].tolist())) < 2:
                return f"the studies {name} it are of too few patients"
        return None

    def part(self, kept: np.ndarray) -> "Table":
        """The studies for which `kept` is true."""
        return Table(
            logits=self.logits[kept],
            similarity=self.similarity[kept],
            labels=self.labels[kept],
            folds=self.folds[kept],
        )


def method_of(table: Table, wanted: Literal["temperature", "platt", "isotonic", "auto"]) -> FittedMethod:
    """The method that serves a finding: isotonic only where both labels have enough studies."""
    if wanted in ("temperature", "platt"):
        return "temperature" if wanted == "temperature" else "platt"
    fewer = min(table.positives, len(table.labels) - table.positives)
    return "isotonic" if fewer >= ENOUGH_FOR_ISOTONIC else "platt"


def fit(tables: Mapping[str, Table], methods: Mapping[str, FittedMethod]) -> dict[str, ScoreMap]:
    """The map of every finding; those by temperature share one."""
    shared = [table for finding, table in tables.items() if methods[finding] == "temperature"]
    temperature = fit_temperature(shared) if shared else None
    maps: dict[str, ScoreMap] = {}
    for finding, table in tables.items():
        if methods[finding] == "temperature":
            assert temperature is not None
            maps[finding] = temperature
        else:
            by = fit_platt if methods[finding] == "platt" else fit_isotonic
            maps[finding] = by(table.logits, table.labels)
    return maps


def fit_temperature(tables: list[Table]) -> Temperature:
    """The one T under which the labels of all findings are most probable (Guo et al., 2017)."""
    from scipy.optimize import minimize_scalar

    logits = np.concatenate([table.logits for table in tables])
    signs = 2.0 * np.concatenate([table.labels for table in tables]) - 1.0

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, -signs * logits / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded", options={"xatol": 1e-8})
    return Temperature(temperature=float(np.exp(found.x)))


def fit_platt(logits: Float[np.ndarray, " study"], labels: Int[np.ndarray, " study"]) -> Platt:
    """Slope and bias by logistic regression on Platt's targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) for 1 and 0.

    The targets keep the slope finite where scores separate the labels.  A slope below 0 would turn the score around;
    such a score says nothing, and its slope is 0.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(labels.sum())
    target = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    centre, spread = float(logits.mean()), float(logits.std())
    slope = 0.0
    if spread > 0.0:
        scaled = ((logits - centre) / spread)[:, None]
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=_ROUNDS)
        # Every study counts as a positive and as a negative, by its target.
        model.fit(
            np.concatenate((scaled, scaled)),
            np.repeat([1, 0], len(labels)),
            sample_weight=np.concatenate((target, 1.0 - target)),
        )
        slope = float(model.coef_[0, 0]) / spread
    if slope <= 0.0:
        return Platt(slope=0.0, bias=float(logit(target.mean())))
    return Platt(slope=slope, bias=float(model.intercept_[0]) - slope * centre)


def fit_isotonic(logits: Float[np.ndarray, " study"], labels: Int[np.ndarray, " study"]) -> Isotonic:
    """The rising curve with the least squared error, kept 1 / (n + 2) away from certainty."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(out_of_bounds="clip").fit(logits, labels)
    margin = 1.0 / (len(labels) + 2)
    values = np.clip(model.y_thresholds_, margin, 1.0 - margin)
    return Isotonic(
        knots=tuple(float(knot) for knot in model.X_thresholds_),
        values=tuple(float(value) for value in values),
        platt=fit_platt(logits, labels),
        platt_share=_PLATT_SHARE,
    )


def cross_validated(
    tables: Mapping[str, Table], methods: Mapping[str, FittedMethod], *, alpha: float
) -> dict[str, Figures]:
    """What calibration does for every finding, on patients that the maps and quantiles were not learned from."""
    answers = {
        finding: (np.zeros(len(table.labels)), np.zeros((2, len(table.labels)), dtype=bool))
        for finding, table in tables.items()
    }
    for fold in sorted({fold for table in tables.values() for fold in table.folds.tolist()}):
        others = {finding: table.part(table.folds != fold) for finding, table in tables.items()}
        maps = fit(others, methods)
        for finding, table in tables.items():
            held, known = table.folds == fold, others[finding]
            quantiles = conformal.fit(known.labels, maps[finding].apply(known.logits), alpha=alpha)
            probabilities, sets = answers[finding]
            probabilities[held] = maps[finding].apply(table.logits[held])
            sets[:, held] = possible(quantiles, probabilities[held])
    return {finding: _figures(tables[finding], *answer) for finding, answer in answers.items()}


def _figures(table: Table, probabilities: np.ndarray, sets: np.ndarray) -> Figures:
    present, absent = sets
    positive = table.labels == 1
    return Figures(
        ece_before=expected_calibration_error(table.labels, table.similarity),
        ece_cv=expected_calibration_error(table.labels, probabilities),
        brier_before=brier(table.labels, table.similarity),
        brier_cv=brier(table.labels, probabilities),
        coverage_present_cv=float(present[positive].mean()),
        coverage_absent_cv=float(absent[~positive].mean()),
        indeterminate_cv=float((present == absent).mean()),
    )
