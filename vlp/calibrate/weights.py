"""How much each descriptor of a finding is worth: non-negative logistic regression on the descriptors' log odds.

    logit score = b + sum_d w_d logit p_d,   w_d >= 0,   least  C sum_i loss_i + |w - 1 / n|^2 / 2

for n descriptors: what the studies do not tell apart keeps equal weights, the mean of the log odds.  A descriptor that
is seen speaks for its finding or not at all: a negative weight would have "there is blunting of the costophrenic angle"
speak against an effusion, which no reader would believe.  C is chosen by cross-validation over patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vlp.inference.classify import Evidence
from vlp.inference.pooling import LogOdds, logit

COSTS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""The C that are tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Weights of the descriptors of one finding."""

    weights: Float[np.ndarray, " descriptor"]
    bias: float
    cost: float
    """C."""
    totals: Float[np.ndarray, " study"]
    """Logit of the score of every study, by weights that were learned without its patient."""


def learn(
    odds: Float[np.ndarray, "study descriptor"], labels: Int[np.ndarray, " study"], folds: Int[np.ndarray, " study"]
) -> Learned:
    """Weights, bias and C of one finding.

    Args:
        odds: logit p_d.
        labels: 1 or 0; both occur outside of every fold.
        folds: the part of the patients that a study's belongs to.
    """
    tried = {cost: _held_out(odds, labels, folds, cost) for cost in COSTS}
    cost = min(tried, key=lambda cost: tried[cost].loss)
    weights, bias = solve(odds, labels, cost=cost)
    totals = tried[cost].centred + float(odds.mean(axis=0) @ weights) + bias
    return Learned(weights=weights, bias=bias, cost=cost, totals=totals)


def solve(
    odds: Float[np.ndarray, "study descriptor"], labels: Int[np.ndarray, " study"], *, cost: float
) -> tuple[Float[np.ndarray, " descriptor"], float]:
    """(weights, bias) for one C."""
    from scipy.optimize import minimize

    signs = 2.0 * labels - 1.0

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = values[:-1], values[-1]
        margins = signs * (odds @ weights + bias)
        pull = -signs * 0.5 * (1.0 - np.tanh(0.5 * margins))  # derivative of the loss by the total
        apart = weights - equal
        gradient = np.append(cost * pull @ odds + apart, cost * pull.sum())
        return cost * float(np.logaddexp(0.0, -margins).sum()) + 0.5 * float(apart @ apart), gradient

    descriptors, prevalence = odds.shape[1], float(labels.mean())
    equal = np.full(descriptors, 1.0 / descriptors)
    start = np.append(equal, np.log(prevalence / (1.0 - prevalence)))
    bounds = [(0.0, None)] * descriptors + [(None, None)]
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8}
    ).x
    return found[:-1], float(found[-1])


def pooling_of(evidence: Evidence, learned: Mapping[str, Learned]) -> LogOdds:
    """The pooling rule of the learned weights; findings without any keep equal ones."""
    groups = evidence.groups
    weights: dict[str, float] = {}
    for number, finding in enumerate(groups.findings):
        if finding in learned:
            ids = groups.ids[groups.columns(number)]
            weights |= {name: float(value) for name, value in zip(ids, learned[finding].weights, strict=True)}
    return LogOdds(weights=weights, bias={finding: one.bias for finding, one in learned.items()})


def odds_of(evidence: Evidence, finding: str) -> Float[np.ndarray, "study descriptor"]:
    """The log odds of a finding's descriptors."""
    groups = evidence.groups
    return logit(evidence.probability[:, groups.columns(groups.findings.index(finding))])


@dataclass(frozen=True, slots=True, kw_only=True)
class _HeldOut:
    loss: float
    centred: Float[np.ndarray, " study"]


def _held_out(odds: np.ndarray, labels: np.ndarray, folds: np.ndarray, cost: float) -> _HeldOut:
    """Loss, and totals less their mean over all studies, by weights that were learned without a study's patient.

    Less their mean, because a fold with more positives leaves fewer for its weights' bias: between folds, totals would
    run against the labels.
    """
    totals, centred = np.zeros(len(labels)), np.zeros(len(labels))
    for fold in np.unique(folds):
        held = folds == fold
        weights, bias = solve(odds[~held], labels[~held], cost=cost)
        totals[held] = odds[held] @ weights + bias
        centred[held] = (odds[held] - odds.mean(axis=0)) @ weights
    signs = 2.0 * labels - 1.0
    return _HeldOut(loss=float(np.logaddexp(0.0, -signs * totals).mean()), centred=centred)
