"""Fits the gate that keeps pictures away from a model that it cannot answer for.

Good films are those of the calibration split: as they are, otherwise exposed, with lungs made white.  What to refuse
is made of the same films and drawn (`vlp.calibrate.spoiled`).  Multinomial logistic regression tells the kinds apart;
distances to good films, one for each part of the inputs, answer for what is like none of them.  One limit for all
reasons together is set on films whose patients took no part in learning what they are judged by (cross-validation).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vlp.calibrate.spoiled import DRAWINGS, SPOILINGS, Pixels, drawn, exposed, whitened
from vlp.data.reader import ShardReader
from vlp.errors import DataError
from vlp.inference.gate import Distance, Gate, Reason, Views, block_sizes, inputs
from vlp.log import progress
from vlp.records import FRONTAL, Split

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

GOOD = "good"
EXPOSED, WHITENED, LATERAL, DRAWN = "exposed", "whitened", "lateral", "drawn"
PASSING = (GOOD, EXPOSED, WHITENED)
OPTIONAL = ("mirrored", LATERAL)
"""Kinds that a model at its size may not be able to tell from good films."""
LEARNED = 0.5
"""The least share of an optional kind that must be caught in cross-validation; a reason that is not learned would only
cost good films."""

FEWEST_FILMS, FEWEST_PATIENTS = 40, 10
"""Of fewer good films no limit can be set."""
MOST_FILMS = 400
"""More teach the gate little; the rest of a large split is left out, by chance."""
MOST_ROUNDS = 3
"""How often a film is changed and spoiled where there are few."""
DRAWN_PER_KIND = 120
AT_ONCE = 64
"""Pictures in memory."""

FOLDS, TURNS = 5, 3
"""Cross-validation is repeated with other partitions and its values averaged: a limit hangs on a handful of films."""
COMPONENTS = 80
"""Of all inputs together, for the regression."""
DIRECTIONS = 40
"""Of each part of the inputs, for its distance."""
SMALLEST_SCALE = 1e-4
"""Added to the standard deviation of an input, so that one that hardly changes does not decide alone."""
STRENGTH = 0.3
"""Inverse of the penalty on the weights of the logistic regression, ..."""
SPREAD_OF_FIRST = 3.0
"""... whose inputs are scaled by one number so that the first has this standard deviation."""
MOST_WHITE = 0.05
"""Largest share of films with white lungs that may be refused: made by a program, they are cruder than real ones."""
TAIL = 0.98
"""Share of good films below the point by which the scales of different reasons are made equal."""
_NO_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Inputs of pictures, what they are, and whose."""

    values: Float[np.ndarray, "picture input"]
    kind: np.ndarray
    patient: np.ndarray
    """Pseudonyms; drawings belong to one of several nobodies, so that each fold holds some."""
    sizes: tuple[int, ...]
    """How many inputs each block has."""

    def of(self, chosen: np.ndarray) -> "Examples":
        """Some of the pictures."""
        return Examples(
            values=self.values[chosen], kind=self.kind[chosen], patient=self.patient[chosen], sizes=self.sizes
        )


def fit_gate(
    engine: "Engine",
    reader: ShardReader,
    *,
    split: Split,
    seed: int = 0,
    max_refused: float = 0.015,
    views: Views = "frontal",
) -> Gate:
    """A gate for the engine's model, fitted on the films of one split.

    Args:
        engine: The model.
        reader: Shards with films of patients it was not trained on.
        split: Which of them.
        seed: Of everything that is drawn.
        max_refused: Share of good films that may be refused in cross-validation by patient, to the nearest film.
        views: "frontal" refuses lateral views, "any" takes them for good films.

    Raises:
        DataError: if there are too few films, or an image cannot be read.
        CheckpointError: for a model that came from no checkpoint.
    """
    films = good_films(reader, split=split, views=views, seed=seed)
    examples = _examples(engine, reader, films, views=views, split=split, seed=seed)
    gate = fit_examples(examples, model=engine.fingerprint, views=views, max_refused=max_refused, seed=seed)
    facts = {
        "archive": reader.name,
        "shards_sha256": reader.digest(),
        "split": split,
        "synthetic": reader.manifest.synthetic,
        "films": len(films),
        "patients": len({film.patient for film in films}),
        "seed": seed,
        "max_refused": max_refused,
    }
    return replace(gate, facts=MappingProxyType({**facts, **gate.facts}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """An image of a study in shards."""

    key: str
    index: int
    patient: str


def good_films(reader: ShardReader, *, split: Split, views: Views = "frontal", seed: int = 0) -> list[Film]:
    """The films of a split that a gate must let pass, at most `MOST_FILMS` of them.

    Raises:
        DataError: if they are too few to fit a gate on.
    """
    wanted = FRONTAL if views == "frontal" else FRONTAL | {"lateral"}
    films = films_of(reader, split=split, views=wanted)
    patients = len({film.patient for film in films})
    if len(films) < FEWEST_FILMS or patients < FEWEST_PATIENTS:
        raise DataError(
            f"{reader.folder}: split {split} has {len(films)} films of {patients} patients with a known view; "
            f"a gate needs {FEWEST_FILMS} of {FEWEST_PATIENTS}: use a larger split, or gate: false"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(films))[:MOST_FILMS])
    return [films[place] for place in chosen]


def films_of(reader: ShardReader, *, split: Split, views: frozenset[str]) -> list[Film]:
    """The images of a split that show one of `views`."""
    return [
        Film(key=key, index=index, patient=reader.sample(key).patient)
        for key in reader.keys(split)
        for index, view in enumerate(reader.sample(key).views)
        if view in views
    ]


def _examples(
    engine: "Engine", reader: ShardReader, films: Sequence[Film], *, views: Views, split: Split, seed: int
) -> Examples:
    laterals = films_of(reader, split=split, views=frozenset({LATERAL}))[:MOST_FILMS] if views == "frontal" else []
    rounds = max(1, min(MOST_ROUNDS, round(MOST_FILMS / len(films))))
    size = engine.model.config.preprocess.rows_columns
    rng = np.random.default_rng([seed, 1])

    def everything() -> Iterator[tuple[str, str, Pixels]]:
        for film in films:
            pixels = reader.image(film.key, film.index, at_least=size)
            yield from ((kind, film.patient, picture) for kind, picture in _made_of(pixels, rounds=rounds, rng=rng))
        for film in laterals:
            yield LATERAL, film.patient, reader.image(film.key, film.index, at_least=size)
        for kind in DRAWINGS:
            yield from ((kind, f"nobody {number % FOLDS}", drawn(kind, rng)) for number in range(DRAWN_PER_KIND))

    total = len(films) * (1 + rounds * (2 + len(SPOILINGS))) + len(laterals) + len(DRAWINGS) * DRAWN_PER_KIND
    return _look(engine, progress(everything(), description="pictures for the gate", total=total, unit="pictures"))


def _made_of(pixels: Pixels, *, rounds: int, rng: np.random.Generator) -> Iterator[tuple[str, Pixels]]:
    yield GOOD, pixels
    for turn in range(rounds):
        yield EXPOSED, exposed(pixels, rng)
        yield WHITENED, whitened(pixels if turn == 0 else exposed(pixels, rng), rng)
        for kind, spoiling in SPOILINGS.items():
            yield kind, spoiling.change(pixels if turn == 0 else exposed(pixels, rng), rng)


def _look(engine: "Engine", pictures: Iterable[tuple[str, str, Pixels]]) -> Examples:
    kinds: list[str] = []
    patients: list[str] = []
    values: list[np.ndarray] = []
    sizes: tuple[int, ...] = ()
    stream = iter(pictures)
    while group := list(islice(stream, AT_ONCE)):
        looked = engine.looked([pixels for _, _, pixels in group])
        kinds += [kind for kind, _, _ in group]
        patients += [patient for _, patient, _ in group]
        values.append(inputs(looked))
        sizes = block_sizes(looked)
    return Examples(values=np.concatenate(values), kind=np.array(kinds), patient=np.array(patients), sizes=sizes)


def fit_examples(
    examples: Examples, *, model: str, views: Views = "frontal", max_refused: float = 0.015, seed: int = 0
) -> Gate:
    """The gate that some pictures lead to.

    Reasons it cannot learn from them (`LEARNED`) are left out, and named in its facts.

    Args:
        examples: The pictures; those of kind "good", "exposed" and "whitened" are to be let pass.
        model: Fingerprint of the model their inputs come from.
        views: What the gate says it lets pass.
        max_refused: Largest share of the good films, and of good and exposed ones together, that may be refused in
            cross-validation, to the nearest film.
        seed: Of the partition of patients.
    """
    folds = np.stack([_folds(examples.patient, seed=seed, turn=turn) for turn in range(TURNS)])
    unlearned: list[str] = []
    while True:
        turns = progress(folds, description="cross-validating the gate", unit="turns")
        raw = np.mean([_unseen(examples, fold, model=model, views=views) for fold in turns], axis=0)
        limits = _limits(raw, examples.kind, max_refused=max_refused)
        gate = replace(_learn(examples, model=model, views=views), middle=limits[0], limit=limits[1])
        refused = gate.scored(raw).max(axis=1) >= 1.0
        caught = {str(kind): float(refused[examples.kind == kind].mean()) for kind in np.unique(examples.kind)}
        hopeless = [kind for kind, share in caught.items() if kind in OPTIONAL and share < LEARNED]
        if not hopeless:
            break
        unlearned += hopeless
        keep = ~np.isin(examples.kind, hopeless)
        examples, folds = examples.of(keep), folds[:, keep]
    facts = {"refused_in_cross_validation": caught, "not_learned": unlearned}
    return replace(gate, facts=MappingProxyType(facts))


def _folds(patients: np.ndarray, *, seed: int, turn: int) -> np.ndarray:
    """A fold for each picture; all pictures of a patient are in one."""
    distinct, place = np.unique(patients, return_inverse=True)
    number = np.random.default_rng([seed, 2, turn]).permutation(len(distinct)) % FOLDS
    for fold in range(FOLDS):
        number[distinct == f"nobody {fold}"] = fold
    folds: np.ndarray = number[place]
    return folds


def _unseen(examples: Examples, fold: np.ndarray, *, model: str, views: Views) -> Float[np.ndarray, "picture detector"]:
    """Raw values of every picture from a gate that was learned without its fold."""
    parts = np.unique(fold)
    gates = [_learn(examples.of(fold != part), model=model, views=views) for part in parts]
    raw = np.zeros((len(fold), len(gates[0].detectors)))
    for part, gate in zip(parts, gates, strict=True):
        raw[fold == part] = gate.raw(examples.values[fold == part])
    return raw


def _limits(
    raw: Float[np.ndarray, "picture detector"], kind: np.ndarray, *, max_refused: float
) -> tuple[Float[np.ndarray, " detector"], Float[np.ndarray, " detector"]]:
    """Middle and limit of each detector: scales are made equal at the tail of good films, then share one limit."""
    good, near = kind == GOOD, np.isin(kind, (GOOD, EXPOSED))
    middle = np.median(raw[near], axis=0)
    tail = np.maximum(np.quantile(raw[near], TAIL, axis=0) - middle, _NO_SPREAD)
    worst = ((raw - middle) / tail).max(axis=1)
    common = max(_smallest_limit(worst[good], max_refused), _smallest_limit(worst[near], max_refused))
    if (white := kind == WHITENED).any():
        common = max(common, _smallest_limit(worst[white], MOST_WHITE))
    return middle, middle + common * tail


def _smallest_limit(values: np.ndarray, share: float) -> float:
    """The least limit from which on about `share` of the values lie, a little above a value itself."""
    allowed = round(share * len(values))
    return max(float(np.sort(values)[len(values) - 1 - allowed]), _NO_SPREAD) * (1 + 1e-6)


def _learn(examples: Examples, *, model: str, views: Views) -> Gate:
    """Everything but the limits, which are 0 and 1."""
    kind = np.where(np.isin(examples.kind, PASSING), GOOD, examples.kind)
    kind = np.where(np.isin(kind, list(DRAWINGS)), DRAWN, kind)
    share = _equal_shares(kind)
    centre = share @ examples.values
    scale = np.sqrt(share @ (examples.values - centre) ** 2) + _NO_SPREAD
    scale *= np.sqrt(np.repeat(examples.sizes, examples.sizes))  # blocks count alike, however many numbers they have
    standard = (examples.values - centre) / scale
    basis = _principal(standard * np.sqrt(share)[:, None], COMPONENTS)[0]
    components = standard @ basis.T
    names, weights, bias = _log_odds(components, kind)
    reasons = tuple(_reason(name) for name in names)
    edges = np.cumsum([0, *examples.sizes])
    good = examples.values[kind == GOOD]
    distances = tuple(_distance(good[:, start:stop]) for start, stop in pairwise(edges))
    detectors = len(set(reasons)) + len(distances)
    return Gate(
        model=model,
        views=views,
        centre=centre,
        scale=scale,
        basis=basis,
        reasons=reasons,
        weights=weights,
        bias=bias,
        distances=distances,
        middle=np.zeros(detectors),
        limit=np.ones(detectors),
        facts={},
    )


def _distance(good: Float[np.ndarray, "picture input"]) -> Distance:
    centre, scale = good.mean(axis=0), good.std(axis=0) + SMALLEST_SCALE
    standard = (good - centre) / scale
    directions, spread = _principal(standard / np.sqrt(len(good)), DIRECTIONS)
    rest = float((standard**2).sum() / len(good) - (spread**2).sum())
    return Distance(
        centre=centre, scale=scale, directions=directions, spread=spread, rest=max(rest, _NO_SPREAD * len(centre))
    )


def _equal_shares(kind: np.ndarray) -> np.ndarray:
    """Weights of pictures that sum to 1, every kind having the same in all."""
    _, place, count = np.unique(kind, return_inverse=True, return_counts=True)
    shares: np.ndarray = 1.0 / (len(count) * count[place])
    return shares


def _principal(values: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The directions along which rows are longest, and how long they are there."""
    _, lengths, directions = np.linalg.svd(values, full_matrices=False)
    number = min(number, int((lengths > 1e-9 * lengths[0]).sum()))
    return directions[:number], lengths[:number]


def _log_odds(components: np.ndarray, kind: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Kinds, and weights and bias of the log odds of each against good films."""
    from sklearn.linear_model import LogisticRegression

    unit = SPREAD_OF_FIRST / components[:, 0].std()
    model = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=500).fit(components * unit, kind)
    names = list(model.classes_)
    good = names.index(GOOD)
    if len(names) == 2:  # scikit-learn then keeps one row, for the second
        sign = 1.0 if good == 0 else -1.0
        return [names[1 - good]], sign * model.coef_ * unit, sign * model.intercept_
    others = [place for place in range(len(names)) if place != good]
    weights, bias = model.coef_ * unit, model.intercept_
    return [names[place] for place in others], weights[others] - weights[good], bias[others] - bias[good]


def _reason(kind: str) -> Reason:
    if kind == LATERAL:
        return "lateral_view"
    return SPOILINGS[kind].reason if kind in SPOILINGS else "not_chest_radiograph"
