"""Whether maps depend on what the model learned: its weights are shuffled from the top down, and maps must fall apart.

After Adebayo et al. (2018) and Arun et al. (2021): a map of a model whose weights are random must be less like the
trained model's map than the trained model's maps of the same words on two different images are like each other.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from vlp.evaluate.explain.agreement import spearman, ssim
from vlp.evaluate.explain.sample import Case, Sample
from vlp.evaluate.explain.table import Row, estimated, missing
from vlp.inference.engine import Engine
from vlp.log import progress
from vlp.metrics.bootstrap import patient_bootstrap, weighted_mean
from vlp.model import VisionLanguageModel

TEST = "weight randomisation"
LIKENESS = {"SSIM": ssim, "Spearman": spearman}
_DRAWS = 3
_MOST_LEVELS = 5
_MOST_CASES = 40
_FEWEST_STUDIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomised:
    """How alike maps are, level by level."""

    levels: tuple[str, ...]
    likeness: dict[str, Float[np.ndarray, "level case"]]
    """By measure: the trained model's map against that of the shuffled one, mean over draws."""
    baseline: dict[str, Float[np.ndarray, " case"]]
    """By measure: maps of the same words on two images, by the trained model."""
    patients: tuple[str, ...]
    """Of every case."""


def measure(sample: Sample, *, resamples: int, seed: int) -> tuple[list[Row], Randomised | None]:
    """How far below the baseline maps fall, with rules for the heads and for all weights; and the figures behind it."""
    cases = sample.one_each(most=_MOST_CASES)
    if len(cases) < _FEWEST_STUDIES:
        return [missing(TEST, "below other images' maps", "fewer than two studies have a present finding")], None
    found = randomise(sample, cases, seed=seed)
    rows = []
    for name, likeness in found.likeness.items():
        baseline = found.baseline[name]
        for level, values in zip(found.levels, likeness, strict=True):
            estimate = patient_bootstrap(
                weighted_mean(baseline - values), found.patients, resamples=resamples, seed=seed
            )
            judged = name == "SSIM" and level in (found.levels[0], found.levels[-1])
            method = (
                f"{name} {values.mean():.3f} with the trained model's map, {baseline.mean():.3f} between the trained "
                f"model's maps of the same words on two images; mean of {_DRAWS} shuffles"
            )
            what = f"{name} below other images' maps: {level}"
            rows.append(estimated(TEST, what, estimate, method=method, above=0.0 if judged else None))
    return rows, found


def randomise(sample: Sample, cases: Sequence[Case], *, seed: int) -> Randomised:
    """Maps of one finding per case by the trained model and by shuffled ones, compared."""
    model = sample.engine.model
    levels = levels_of(model)
    trained = _maps(sample, sample.engine, cases)
    likeness = {name: np.zeros((len(levels), len(cases))) for name in LIKENESS}
    for draw in progress(range(_DRAWS), description="weights shuffled", unit="draws"):
        with shuffled_from_the_top(model, levels, seed=seed + draw) as states:
            for number, _ in enumerate(states):
                maps = _maps(sample, Engine(model), cases)
                for name, alike in LIKENESS.items():
                    likeness[name][number] += [alike(*pair) / _DRAWS for pair in zip(trained, maps, strict=True)]
    return Randomised(
        levels=tuple(name for name, _ in levels),
        likeness=likeness,
        baseline=_baseline(sample, cases, trained),
        patients=tuple(sample.patients[case.number] for case in cases),
    )


def levels_of(model: VisionLanguageModel) -> list[tuple[str, list[nn.Parameter]]]:
    """(name, the parameters shuffled in addition), from the heads down to the stem of the image tower."""
    top = [model.image_head, model.text_head, model.align, model.scorer.norm]
    heads = [parameter for module in top for parameter in module.parameters()]
    below = [list(layer) for layer in model.image_tower.layers()][::-1]
    parts = np.array_split(np.arange(len(below)), min(_MOST_LEVELS - 1, len(below)))
    levels = [("heads", heads)]
    for part in parts:
        done = int(part[-1]) + 1
        name = "everything" if done == len(below) else f"heads and the top {done} of {len(below)} layers"
        levels.append((name, [parameter for index in part for parameter in below[index]]))
    return levels


@contextmanager
def shuffled_from_the_top(
    model: VisionLanguageModel, levels: Sequence[tuple[str, Sequence[nn.Parameter]]], *, seed: int
) -> Iterator[Iterator[str]]:
    """Gives an iterator that shuffles one level more at every step; afterwards every weight is what it was.

    A shuffled weight keeps its values and loses their places, so that activations keep their scale.
    """
    kept = [(parameter, parameter.detach().clone()) for _, parameters in levels for parameter in parameters]
    generator = torch.Generator().manual_seed(seed)

    def steps() -> Iterator[str]:
        for name, parameters in levels:
            for parameter in parameters:
                order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
                with torch.no_grad():
                    parameter.copy_(parameter.detach().flatten()[order].view_as(parameter))
            yield name

    try:
        yield steps()
    finally:
        with torch.no_grad():
            for parameter, values in kept:
                parameter.copy_(values)


def _maps(sample: Sample, engine: Engine, cases: Sequence[Case]) -> list[Float[np.ndarray, "rows columns"]]:
    features = engine.features([sample.seen[case.number] for case in cases])[0]
    findings = sorted({case.finding for case in cases})
    maps = engine.maps_of([sample.named(finding) for finding in findings], features)
    return [maps[findings.index(case.finding), row] for row, case in enumerate(cases)]


def _baseline(
    sample: Sample, cases: Sequence[Case], trained: Sequence[np.ndarray]
) -> dict[str, Float[np.ndarray, " case"]]:
    """Each case's map against that of the same words on the next case's image; cases come in no order."""
    texts = [sample.named(case.finding) for case in cases]
    others = [cases[(index + 1) % len(cases)].number for index in range(len(cases))]
    features = sample.engine.features([sample.seen[number] for number in others])[0]
    maps = sample.engine.maps_of(texts, features)
    elsewhere = [maps[index, index] for index in range(len(cases))]
    return {
        name: np.array([alike(*pair) for pair in zip(trained, elsewhere, strict=True)])
        for name, alike in LIKENESS.items()
    }
