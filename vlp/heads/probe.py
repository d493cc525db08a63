"""Linear probes: what a frozen encoder's one vector per image holds, read with 1, 10 and 100 % of the labels.

A logistic regression per finding on the pooled vector of the study's first frontal image, its strength chosen on
validation studies, scored on test studies beside the zero-shot score of the same model on the same studies.  Shares
are of patients; a share below one is drawn several times, and a figure is the mean over the draws.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vlp.config import Config, dump
from vlp.data.reader import ShardReader, open_shards
from vlp.errors import DataError
from vlp.evaluate.results import MACRO, Result, result, write_results
from vlp.heads.pooled import Representation, ensure_pooled
from vlp.heads.studies import chosen_patients, refuse_shared_patients
from vlp.inference.engine import load
from vlp.log import progress
from vlp.metrics.bootstrap import Resamples, Statistic, macro_estimate
from vlp.metrics.policy import LEFT_OUT, LabelPolicy, apply_policy
from vlp.metrics.ranking import auroc_statistic
from vlp.prompts.descriptors import Prompts, load_descriptors
from vlp.records import Split
from vlp.reports.findings import NO_FINDING
from vlp.train.folder import write_text

TASK = "probe"
Share = Annotated[float, Field(gt=0.0, le=1.0)]
_MOST_ITERATIONS = 2000


class ProbeConfig(Config):
    """Linear probes of one encoder."""

    kind: Literal["probe"]
    output: Path
    """Where config.yaml, results.json and the images' vectors go."""
    encoder: Path
    """Checkpoint whose vectors are read."""
    shards: Path
    findings: Literal["auto"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    """auto: findings that have prompts, and studies with and without them in all three splits."""
    representation: Representation = "tower"
    """tower: the image tower's pooled vector; joint: the vector that sentences are compared with."""
    shares: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.01, 0.1, 1.0)
    """Of the training patients."""
    draws: PositiveInt = 5
    """How often a share below 1 is drawn."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    """Inverse penalties to choose from, C of scikit-learn's LogisticRegression."""
    prompts: Prompts = "both"
    """What the zero-shot score beside the probes follows from."""
    uncertain: LabelPolicy = "ignore"
    """What a label "uncertain" counts as.  Findings a study says nothing about are left out."""
    validation_split: Split = "val"
    split: Split = "test"
    resamples: Annotated[int, Field(ge=100)] = 1000
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95
    batch_images: PositiveInt = 32
    device: str = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the draws of patients and of the resampling."""

    @model_validator(mode="after")
    def _splits_are_apart(self) -> "ProbeConfig":
        if len({"train", self.validation_split, self.split}) < 3:
            raise ValueError("training, choosing and scoring need studies of their own: one of val and test each")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The vectors of a split's studies and what is known of the findings on them."""

    vectors: Float[np.ndarray, "study width"]
    labels: Int[np.ndarray, "study finding"]
    """1, 0 or `LEFT_OUT`."""
    patients: tuple[str, ...]

    def known(self, column: int, chosen: frozenset[str] | None = None) -> Int[np.ndarray, " row"]:
        """Rows with a label of a finding, of all patients or of some."""
        rows = np.flatnonzero(self.labels[:, column] != LEFT_OUT)
        return rows if chosen is None else np.array([row for row in rows if self.patients[row] in chosen], dtype=int)


def run_probe(config: ProbeConfig) -> list[Result]:
    """Fits and scores all probes; the rows of `results.json` in the output folder.

    Raises:
        DataError: if the shards cannot be used, splits share patients, or no finding has labels of both kinds.
        CheckpointError: for an encoder that cannot be loaded.
    """
    reader = open_shards(config.shards)
    splits: tuple[Split, ...] = ("train", config.validation_split, config.split)
    refuse_shared_patients(reader, splits)
    engine = load(config.encoder, device=config.device, batch_images=config.batch_images)
    descriptors = load_descriptors()
    if config.findings == "auto":
        asked = tuple(name for name in sorted(descriptors.findings) if name != NO_FINDING)
    else:
        asked = tuple(sorted({descriptors.resolve(name) for name in config.findings}))
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        write_text(config.output / "config.yaml", dump(config))
    except OSError as error:
        raise DataError(f"{config.output}: cannot be written: {error.strerror}") from None
    tables, scores = {}, {}
    for split in splits:
        pooled = ensure_pooled(
            config.output, engine, reader, split, representation=config.representation, findings=asked,
            descriptors=descriptors, prompts=config.prompts, batch=config.batch_images,
        )  # fmt: skip
        tables[split] = _table(reader, pooled.keys, pooled.vectors, asked, config.uncertain)
        scores[split] = pooled.scores
    kept = [column for column in range(len(asked)) if all(_has_both(table, column) for table in tables.values())]
    if not kept:
        raise DataError(f"{config.shards}: no finding is labelled present and absent in all three splits")
    tables = {
        split: Table(vectors=table.vectors, labels=table.labels[:, kept], patients=table.patients)
        for split, table in tables.items()
    }
    results = score_probes(tables, scores[config.split][:, kept], [asked[column] for column in kept], config)
    write_results(results, config.output)
    return results


def score_probes(
    tables: Mapping[Split, Table],
    zero_shot: Float[np.ndarray, "study finding"],
    findings: Sequence[str],
    config: ProbeConfig,
) -> list[Result]:
    """AUROC of zero-shot, of every share's probes, and the paired differences; per finding and as macro average.

    Args:
        tables: Vectors and labels of the three splits.
        zero_shot: Scores of the studies of `config.split`.
        findings: Of the columns.
        config: Shares, draws, strengths, resamples.
    """
    tested = tables[config.split]
    resamples = Resamples.draw(tested.patients, resamples=config.resamples, seed=config.seed)
    fitted = fit_probes(tables, findings, config)
    results: list[Result] = []
    for metric, words, statistic_of in _metrics(tested, zero_shot, fitted):
        members = {}
        for column, name in enumerate(findings):
            rows = tested.known(column)
            patients = [tested.patients[row] for row in rows]
            positives = int(tested.labels[rows, column].sum())
            members[name] = resamples.sample(statistic_of(column), patients, n_positive=positives)
        average = macro_estimate(members, level=config.level)
        results.append(result(TASK, metric, MACRO, average, method=f"{words}; mean of {len(members)} findings"))
        results += [
            result(TASK, metric, name, member.estimate(level=config.level), method=words)
            for name, member in members.items()
        ]
    return results


def fit_probes(
    tables: Mapping[Split, Table], findings: Sequence[str], config: ProbeConfig
) -> dict[float, list[Float[np.ndarray, "study finding"]]]:
    """Per share of the patients the test scores of every draw.

    Where a draw has studies of one kind only, nothing can be learned and all scores are equal: an AUROC of 0.5.
    """
    train, validation, tested = (tables[split] for split in ("train", config.validation_split, config.split))
    plans = [(share, draw) for share in config.shares for draw in range(config.draws if share < 1.0 else 1)]
    found: dict[float, list[np.ndarray]] = {share: [] for share in config.shares}
    for share, draw in progress(plans, description="probes", unit="draws"):
        chosen = chosen_patients(train.patients, share=share, seed=config.seed + draw)
        scores = np.zeros((len(tested.vectors), len(findings)))
        for column in range(len(findings)):
            rows = train.known(column, chosen)
            if len(set(train.labels[rows, column].tolist())) == 2:
                scores[:, column] = _fit(train, rows, validation, tested, column, config.strengths)
        found[share].append(scores)
    return found


def _fit(
    train: Table,
    rows: Int[np.ndarray, " row"],
    validation: Table,
    tested: Table,
    column: int,
    strengths: Sequence[float],
) -> Float[np.ndarray, " study"]:
    """Scores of the tested studies from the probe whose strength ranks the validation studies best."""
    mean, spread = train.vectors[rows].mean(axis=0), train.vectors[rows].std(axis=0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    known = validation.known(column)
    best, chosen = -np.inf, None
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=_MOST_ITERATIONS)
        model.fit((train.vectors[rows] - mean) / scale, train.labels[rows, column])
        ranked = model.decision_function((validation.vectors[known] - mean) / scale)
        quality = roc_auc_score(validation.labels[known, column], ranked)
        if quality > best:
            best, chosen = quality, model
    assert chosen is not None
    scores: np.ndarray = chosen.decision_function((tested.vectors - mean) / scale)
    return scores


def _metrics(
    tested: Table, zero_shot: np.ndarray, fitted: Mapping[float, Sequence[np.ndarray]]
) -> Iterator[tuple[str, str, Callable[[int], Statistic]]]:
    """(metric, what it is in words, column -> statistic of the rows that have a label there)."""

    def area(scores: np.ndarray, column: int) -> Statistic:
        rows = tested.known(column)
        return auroc_statistic(tested.labels[rows, column], scores[rows, column])

    yield "auroc_zero_shot", "zero-shot score of the same model", lambda column: area(zero_shot, column)
    for share, draws in fitted.items():
        percent = f"{100 * share:g}".replace(".", "_")
        drawn = f"linear probe on {100 * share:g} % of the training patients" + (
            f", mean of {len(draws)} draws" if len(draws) > 1 else ""
        )

        def probe(column: int, draws: Sequence[np.ndarray] = draws) -> Statistic:
            return _mean([area(scores, column) for scores in draws])

        def gain(column: int, probe: Callable[[int], Statistic] = probe) -> Statistic:
            return _difference(probe(column), area(zero_shot, column))

        yield f"auroc_probe_{percent}_percent", drawn, probe
        yield f"auroc_gain_{percent}_percent", f"{drawn}, minus zero-shot, paired", gain


def _mean(statistics: Sequence[Statistic]) -> Statistic:
    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        return np.mean([each(weights) for each in statistics], axis=0)

    return statistic


def _difference(first: Statistic, second: Statistic) -> Statistic:
    def statistic(weights: Float[np.ndarray, "resample row"]) -> Float[np.ndarray, " resample"]:
        return first(weights) - second(weights)

    return statistic


def _table(
    reader: ShardReader, keys: Sequence[str], vectors: np.ndarray, findings: Sequence[str], uncertain: LabelPolicy
) -> Table:
    labels = np.full((len(keys), len(findings)), LEFT_OUT, dtype=np.int64)
    for row, key in enumerate(keys):
        said = reader.study(key).labels
        labels[row] = apply_policy([said.get(name) for name in findings], uncertain)
    return Table(vectors=vectors, labels=labels, patients=tuple(reader.sample(key).patient for key in keys))


def _has_both(table: Table, column: int) -> bool:
    return {0, 1} <= set(table.labels[:, column].tolist())
