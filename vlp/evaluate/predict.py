"""One pass of a model over the studies of an evaluation, giving the prediction rows of every task."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Bool, Float

from vlp.data import ShardReader
from vlp.evaluate import answers, grounding, prior
from vlp.evaluate.config import CALIBRATED, EvaluateConfig, Prompts
from vlp.evaluate.looking import Job, Look, groups, labels_of, look, plan
from vlp.evaluate.predictions import PARAPHRASES, PRIOR
from vlp.evaluate.questions import Questions, findings_labelled
from vlp.evaluate.retrieval_rankers import shortened, thumbnail
from vlp.inference.classify import weigh
from vlp.inference.scoring import score
from vlp.log import progress
from vlp.prompts.protocols import PROTOCOLS
from vlp.records import Certainty

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.tensors import Placement

SCORE_TYPE = "probability"
"""Scores lie in (0, 1); the descriptor file and the report say that they are not calibrated."""
Rows = dict[str, list[dict[str, Any]]]


def predict(engine: "Engine", reader: ShardReader, config: EvaluateConfig, *, questions: Questions) -> Rows:
    """The rows of every task of `config`, and of what belongs to them, from one look at every image.

    Raises:
        DataError: for an image that cannot be decoded or a region that does not fit its image.
    """
    extra = {PRIOR: bool(questions.priors), PARAPHRASES: config.paraphrases}
    rows: Rows = {name: [] for name in (*config.tasks, *(name for name, wanted in extra.items() if wanted))}
    jobs = plan(reader, config, questions.findings, anatomy=questions.anatomy)
    for job in jobs:
        if not job.images:
            _refuse(rows, job, config, questions)
    seen = [job for job in jobs if job.images]
    for group in groups(progress(seen, description="studies through the model", unit="studies"), config.batch_images):
        found = look(engine, reader, group)
        _classify(rows, found, config, questions)
        _embed(rows, found, questions)
        _ground(rows, found, questions)
        answers.negation(rows, found, questions)
        answers.paraphrased(rows, found, questions)
        answers.calibrated(rows, found, questions)
    return rows


def _classify(rows: Rows, look: Look, config: EvaluateConfig, questions: Questions) -> None:
    asked = look.asked("classification")
    for name in config.score_names if asked else ():
        values = _scored(look, name, config, questions)
        for number, job in asked:
            scores = dict(zip(questions.findings, values[number].tolist(), strict=True))
            rows["classification"] += _scores(job, name, scores, questions)


def _scored(look: Look, name: str, config: EvaluateConfig, questions: Questions) -> Float[np.ndarray, "job finding"]:
    """One score of every study."""
    engine, features, findings, descriptors = look.engine, look.features, questions.findings, questions.descriptors
    if name in config.protocols:
        return score(engine, features, findings, PROTOCOLS[name], descriptors=descriptors, owner=look.owner)
    calibration = questions.calibration if name == CALIBRATED else None
    pooling = None if calibration is None else calibration.pooling
    prompts = cast(Prompts, config.prompts if name == CALIBRATED else name)
    evidence = weigh(engine, features, findings, descriptors=descriptors, prompts=prompts, pooling=pooling)
    return evidence.fused(look.owner).scores


def _embed(rows: Rows, look: Look, questions: Questions) -> None:
    asked = look.asked("retrieval")
    if not asked:
        return
    vectors = look.engine.vectors(look.features)
    tower = look.looked.tower.float().cpu().numpy()
    for number, job in asked:
        own = [index for index, owner in enumerate(look.owner) if owner == number]
        pixels = np.stack([thumbnail(look.looked.seen[index].pixels) for index in own])
        found = {
            "embedding": vectors[own].mean(axis=0).tolist(),
            "tower": shortened(tower[own].mean(axis=0)).tolist(),
            "thumbnail": shortened(pixels.mean(axis=0, dtype=np.float64)).tolist(),
        }
        rows["retrieval"].append(_case(job, found, questions))


def _ground(rows: Rows, look: Look, questions: Questions) -> None:
    for task, names in (("grounding", questions.findings), ("anatomy", questions.anatomy)):
        if not any(task in job.tasks for job in look.jobs) or not names:
            continue
        maps = np.stack([questions.maps(look.engine, look.features, name) for name in names])
        for position, (number, index) in enumerate(look.places):
            job = look.jobs[number]
            if task in job.tasks:
                one = replace(job, images=(index,))
                found = _grounded(one, names, maps[:, position], look.placements[position], questions)
                rows[task] += [row for row, _ in found]
                _add_priors(rows, found, questions)


def _add_priors(rows: Rows, found: list[tuple[dict[str, Any], np.ndarray]], questions: Questions) -> None:
    if PRIOR in rows:
        rows[PRIOR] += [
            prior.measured(row, questions.priors[row["finding"]], truth)
            for row, truth in found
            if row["finding"] in questions.priors
        ]


def _scores(job: Job, name: str, scores: Mapping[str, float | None], questions: Questions) -> list[dict[str, Any]]:
    labels = labels_of(job, questions.findings)
    return [
        {
            **questions.provenance.columns(),
            **job.columns(),
            "finding": finding,
            "score_name": name,
            "score": scores[finding],
            "score_type": SCORE_TYPE,
            "label": labels[finding],
        }
        for finding in questions.findings
    ]


def _case(job: Job, vectors: Mapping[str, list[float]], questions: Questions) -> dict[str, Any]:
    """A study as a case; `vectors` by column, none for a study that was refused."""
    person = job.study.person
    said = {one: findings_labelled(one, job.study.labels, questions.findings) for one in Certainty}
    return {
        **questions.provenance.columns(),
        **job.columns(),
        "query": job.query,
        "gallery": job.gallery,
        "findings": said[Certainty.PRESENT],
        "absent": said[Certainty.ABSENT],
        "uncertain": said[Certainty.UNCERTAIN],
        "age": person.age,
        "sex": person.sex,
        **{column: vectors.get(column, []) for column in ("embedding", "tower", "thumbnail")},
    }


def _grounded(
    job: Job, names: Sequence[str], maps: np.ndarray, placement: "Placement", questions: Questions
) -> list[tuple[dict[str, Any], Bool[np.ndarray, "rows columns"]]]:
    """(row, true mask) of every name that has a region on the job's one image."""
    image = job.study.images[job.images[0]].id
    rows, columns = placement.original
    found = []
    for name, grid in zip(names, maps, strict=True):
        truth = grounding.true_mask(job.study.regions, finding=name, image=image, rows=rows, columns=columns)
        if truth is None:
            continue
        kinds = sorted(
            {region.kind for region in job.study.regions if (region.finding, region.image) == (name, image)} - {"point"}
        )
        row = {
            **questions.provenance.columns(),
            **job.columns(),
            "finding": name,
            "text": " | ".join(questions.texts(name)),
            "region_kind": " ".join(kinds),
            **grounding.measure(placement.map_to_original(grid), truth),
        }
        found.append((row, truth))
    return found


def _refuse(rows: Rows, job: Job, config: EvaluateConfig, questions: Questions) -> None:
    nothing = dict.fromkeys(questions.findings)
    if "classification" in job.tasks:
        for name in config.score_names:
            rows["classification"] += _scores(job, name, nothing, questions)
    if "retrieval" in job.tasks:
        rows["retrieval"].append(_case(job, {}, questions))
    answers.refuse(rows, job, questions)
