"""`vlp calibrate`: one look at every study of a split, and everything that can be learned from it, as one artefact."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from vlp import __version__
from vlp.calibrate import conformal, weights
from vlp.calibrate.config import OWN, CalibrateConfig
from vlp.calibrate.maps import Curves, Prompted
from vlp.calibrate.scores import Table, cross_validated, fit, method_of
from vlp.data import ShardReader, open_shards
from vlp.errors import DataError
from vlp.inference.calibration import (
    FILE,
    Calibration,
    FindingCalibration,
    FittedOn,
    PooledBy,
    preprocess_digest,
)
from vlp.inference.classify import Evidence, weigh
from vlp.inference.lungs import ANATOMY
from vlp.inference.pooling import GeometricMean, LogOdds, Pooling, logit, sigma
from vlp.inference.scoring import ask
from vlp.log import get_logger, progress
from vlp.metrics.policy import LEFT_OUT, apply_policy
from vlp.prompts.descriptors import DescriptorSet, load_descriptors
from vlp.prompts.protocols import protocol
from vlp.records import Certainty, Study
from vlp.reports.findings import NO_FINDING

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.tensors import ImageFeatures

_LOGGER = get_logger("vlp.calibrate")


def calibrate(settings: CalibrateConfig) -> Calibration:
    """Learns everything and writes `calibration.json` (and `gate.json`) to `settings.folder`.

    Raises:
        DataError: for shards that cannot be read, a split that must not be calibrated on, or one from which nothing
            can be learned.
        CheckpointError: for a checkpoint that cannot be loaded.
    """
    reader = open_shards(settings.shards)
    check_split(reader, settings)
    descriptors = load_descriptors(settings.descriptors)
    protocol(settings.protocol)  # refuses an unknown name before a large model is loaded
    findings = resolve_findings(reader, settings, descriptors)
    from vlp.inference import engine as inference

    model = inference.load(settings.checkpoint, device=settings.device, batch_images=settings.batch_images)
    return calibrate_model(model, reader, settings, findings=findings, descriptors=descriptors)


def calibrate_model(
    engine: "Engine",
    reader: ShardReader,
    settings: CalibrateConfig,
    *,
    findings: tuple[str, ...],
    descriptors: DescriptorSet,
) -> Calibration:
    """As `calibrate`, for an engine and shards that are open already."""
    folder = settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)  # before the model runs
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder of the calibration: {error.strerror}") from None
    looked = look(engine, reader, settings, findings=findings, descriptors=descriptors)
    learned = learn(looked, settings)
    result = Calibration(
        vlp_version=__version__,
        model_fingerprint=engine.fingerprint,
        prompts_digest=descriptors.digest,
        preprocess_digest=preprocess_digest(engine.model.config.preprocess),
        protocol=settings.protocol,
        prompts=settings.prompts,
        views=settings.views,
        uncertain=settings.uncertain,
        pooled_by=learned.pooled_by,
        fitted_on=_fitted_on(reader, settings, looked),
        findings=learned.findings,
        left_out=learned.left_out,
        maps=looked.curves.thresholds(),
    )
    if not (result.findings or result.maps):
        raise DataError(f"{settings.shards}: {settings.split} has too few labels of any finding to learn from")
    if settings.gate:
        _learn_gate(engine, reader, settings)
    _write(result, folder / FILE)
    return result


def check_split(reader: ShardReader, settings: CalibrateConfig) -> None:
    """Refuses studies that would make a calibration look better than it is.

    Raises:
        DataError: if the split is that of training, has no study, or shares a patient with another split.
    """
    if settings.split == "train":
        raise DataError("split: train: a model is surer of studies it was trained on; calibrate on val")
    own = reader.manifest.patients(settings.split)
    if not own:
        raise DataError(f"{settings.shards}: no study in the split {settings.split!r}")
    for split in ("train", "val", "test"):
        shared = own & reader.manifest.patients(split) if split != settings.split else frozenset()
        if shared:
            raise DataError(
                f"{settings.shards}: {len(shared)} patients are in both {settings.split} and {split}; split by patient"
            )


def resolve_findings(reader: ShardReader, settings: CalibrateConfig, descriptors: DescriptorSet) -> tuple[str, ...]:
    """The findings to calibrate, in the descriptor set's own names, sorted.

    Raises:
        DataError: for a name nobody knows, or where there is none.
    """
    if settings.findings != "auto":
        return tuple(sorted({descriptors.resolve(name) for name in settings.findings}))
    counts = reader.manifest.splits[settings.split].findings
    positive = {finding for finding, by_certainty in counts.items() if by_certainty.get(Certainty.PRESENT)}
    found = tuple(sorted(positive & set(descriptors.findings) - {NO_FINDING}))
    if not found:
        raise DataError(f"{settings.shards}: no finding of the vocabulary is labelled present in {settings.split}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What a model says of the studies of a split, and what is known of them."""

    evidence: Evidence
    """One row per study, pooled by the geometric mean."""
    labels: Int[np.ndarray, "study finding"]
    """1, 0 or `LEFT_OUT`, in the order of `evidence.findings`."""
    patients: tuple[str, ...]
    """Per study."""
    curves: Curves


def look(
    engine: "Engine",
    reader: ShardReader,
    settings: CalibrateConfig,
    *,
    findings: tuple[str, ...],
    descriptors: DescriptorSet,
) -> Looked:
    """One look at every study of the split.

    Raises:
        DataError: if no study has an image to look at, or an image cannot be decoded.
    """
    regions = {region.finding for study in reader.studies(settings.split) for region in study.regions}
    names = (*findings, *sorted(regions & set(ANATOMY)))
    curves = Curves(prompted=Prompted.of(names, descriptors, sides=settings.grounding_prompts == "sides"))
    evidence: list[Evidence] = []
    studies: list[Study] = []
    for group in _groups(reader, settings):
        places = [(number, index) for number, (_, _, images) in enumerate(group) for index in images]
        seen = [engine.see(reader, group[number][0], index) for number, index in places]
        looked = engine.looked(seen)
        asked = _ask(engine, looked.features, settings, findings, descriptors)
        evidence.append(asked.fused([number for number, _ in places]))
        studies += [study for _, study, _ in group]
        for position, (number, index) in enumerate(places):
            study = group[number][1]
            own = [region for region in study.regions if region.image == study.images[index].id]
            if own:
                curves.look(engine, looked.features[position : position + 1], looked.placements[position], own)
    if not evidence:
        raise DataError(f"{settings.shards}: no study of {settings.split} has a frontal view; try views=mean")
    labels = [
        apply_policy([study.labels.get(finding) for study in studies], settings.uncertain)
        for finding in evidence[0].findings
    ]
    return Looked(
        evidence=_joined(evidence),
        labels=np.stack(labels, axis=1).astype(np.int64),
        patients=tuple(study.person.id for study in studies),
        curves=curves,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What the studies teach about scores."""

    pooled_by: PooledBy
    findings: dict[str, FindingCalibration]
    left_out: dict[str, str]


def learn(looked: Looked, settings: CalibrateConfig) -> Learned:
    """Pooling weights, probability maps, conformal quantiles, and what they are worth."""
    folds = partition(looked.patients, folds=settings.folds, seed=settings.seed)
    plain = {finding: _table(looked, column, folds) for column, finding in enumerate(looked.evidence.findings)}
    left_out = {finding: reason for finding, table in plain.items() if (reason := table.lacks())}
    tables = {finding: table for finding, table in plain.items() if finding not in left_out}
    for finding, reason in left_out.items():
        _LOGGER.warning("%s is not calibrated: %s", finding, reason)
    pooling: Pooling = GeometricMean()
    if settings.pooling == "log_odds":
        tables, pooling = _weighted(looked, tables)
    methods = {finding: method_of(table, settings.method) for finding, table in tables.items()}
    maps = fit(tables, methods)
    figures = cross_validated(tables, methods, alpha=settings.alpha)
    calibrated = {
        finding: FindingCalibration(
            map=maps[finding],
            studies=len(table.labels),
            positives=table.positives,
            conformal=conformal.fit(table.labels, maps[finding].apply(table.logits), alpha=settings.alpha),
            figures=figures[finding],
        )
        for finding, table in tables.items()
    }
    return Learned(pooled_by=_recorded(pooling), findings=calibrated, left_out=left_out)


def partition(patients: tuple[str, ...], *, folds: int, seed: int) -> Int[np.ndarray, " study"]:
    """Per study the part of the patients that its own belongs to; parts differ by one patient at most."""
    distinct = sorted(set(patients))
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(distinct))
    part = {distinct[patient]: place % folds for place, patient in enumerate(order)}
    return np.array([part[patient] for patient in patients], dtype=np.int64)


def _table(looked: Looked, column: int, folds: np.ndarray) -> Table:
    kept = looked.labels[:, column] != LEFT_OUT
    scores = looked.evidence.scores[kept, column]
    return Table(logits=logit(scores), similarity=scores, labels=looked.labels[kept, column], folds=folds[kept])


def _weighted(looked: Looked, tables: dict[str, Table]) -> tuple[dict[str, Table], LogOdds]:
    """The tables with the logits of log-odds pooling, each by weights learned without the study's patient."""
    learned = {}
    for finding, table in progress(tables.items(), description="weighing descriptors", unit="findings"):
        kept = looked.labels[:, looked.evidence.findings.index(finding)] != LEFT_OUT
        odds = weights.odds_of(looked.evidence, finding)[kept]
        learned[finding] = weights.learn(odds, table.labels, table.folds)
    weighted = {
        finding: replace(table, logits=logit(sigma(learned[finding].totals))) for finding, table in tables.items()
    }
    return weighted, weights.pooling_of(looked.evidence, learned)


def _recorded(pooling: Pooling) -> PooledBy:
    if isinstance(pooling, LogOdds):
        return PooledBy(kind="log_odds", weights=dict(pooling.weights), bias=dict(pooling.bias))
    return PooledBy()


def _ask(
    engine: "Engine",
    features: "ImageFeatures",
    settings: CalibrateConfig,
    findings: tuple[str, ...],
    descriptors: DescriptorSet,
) -> Evidence:
    if settings.protocol == OWN:
        return weigh(engine, features, findings, descriptors=descriptors, prompts=settings.prompts)
    return ask(engine, features, findings, protocol(settings.protocol), descriptors=descriptors)


def _groups(reader: ShardReader, settings: CalibrateConfig) -> Iterator[list[tuple[str, Study, tuple[int, ...]]]]:
    """(key, study, images to look at), at most `batch_images` images together; progress is told by study."""
    group: list[tuple[str, Study, tuple[int, ...]]] = []
    waiting, without = 0, 0
    for key in progress(reader.keys(settings.split), description="studies through the model", unit="studies"):
        study, frontal = reader.study(key), reader.sample(key).frontal
        images = tuple(range(len(study.images))) if settings.views == "mean" else frontal[:1]
        if not images:
            without += 1
            continue
        if group and waiting + len(images) > settings.batch_images:
            yield group
            group, waiting = [], 0
        group.append((key, study, images))
        waiting += len(images)
    if group:
        yield group
    if without:
        _LOGGER.warning("%d studies of %s have no frontal view and are left out", without, settings.split)


def _joined(parts: list[Evidence]) -> Evidence:
    return replace(
        parts[0],
        positive=np.concatenate([part.positive for part in parts]),
        negative=np.concatenate([part.negative for part in parts]),
        probability=np.concatenate([part.probability for part in parts]),
        num_images=tuple(count for part in parts for count in part.num_images),
    )


def _fitted_on(reader: ShardReader, settings: CalibrateConfig, looked: Looked) -> FittedOn:
    return FittedOn(
        archive=reader.name,
        shards_sha256=reader.digest(),
        split=settings.split,
        studies=len(looked.patients),
        patients=len(set(looked.patients)),
        synthetic=reader.manifest.synthetic,
    )


def _learn_gate(engine: "Engine", reader: ShardReader, settings: CalibrateConfig) -> None:
    from vlp.calibrate.gate import fit_gate
    from vlp.inference import gate

    learned = fit_gate(engine, reader, split=settings.split, seed=settings.seed, views=settings.gate_views)
    gate.save(learned, settings.folder / gate.FILE_NAME)


def _write(calibration: Calibration, path: Path) -> None:
    """Whole or not at all: to a temporary name beside it, then renamed."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(calibration.to_json(), encoding="utf-8")
    os.replace(temporary, path)


__all__ = ["CalibrateConfig", "Calibration", "calibrate", "calibrate_model", "check_split"]
