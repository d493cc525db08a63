"""One pass of a model over the studies of an evaluation, giving the prediction rows of every task."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlp.data import ShardReader
from vlp.evaluate import grounding
from vlp.evaluate.config import EvaluateConfig, Task
from vlp.evaluate.predictions import OK, REFUSED, Provenance
from vlp.inference.classify import weigh
from vlp.log import progress
from vlp.prompts.descriptors import DescriptorSet
from vlp.records import Certainty, Study
from vlp.reports.findings import sentence_text

if TYPE_CHECKING:
    from vlp.inference.engine import Engine
    from vlp.tensors import ImageFeatures, Placement

NO_FRONTAL = "no frontal view"
SCORE_TYPE = "probability"
"""Scores lie in (0, 1); the descriptor file and the report say that they are not calibrated."""
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A study, the images of it that are looked at, and the tasks it is needed for."""

    key: str
    study: Study
    images: tuple[int, ...]
    tasks: frozenset[Task]
    query: bool
    gallery: bool

    def columns(self) -> dict[str, Any]:
        """The columns that say whose prediction a row is."""
        shown = [self.study.images[index] for index in self.images]
        return {
            "dataset": self.study.source,
            "split": self.study.split,
            "patient_id": self.study.person.id,
            "study_id": self.key,
            "image_id": " ".join(image.id for image in shown),
            "view": " ".join(image.view for image in shown),
            "status": OK if self.images else REFUSED,
            "status_reason": "" if self.images else NO_FRONTAL,
        }


def plan(reader: ShardReader, config: EvaluateConfig, findings: Sequence[str]) -> list[Job]:
    """What has to be looked at, each study once: the scored split, regions of the threshold split, the gallery."""
    splits = dict.fromkeys((config.split, config.threshold_split, *config.gallery))
    jobs = []
    for split in splits:
        for key in reader.keys(split):
            job = _job(reader, key, config, set(findings))
            if job.tasks:
                jobs.append(job)
    return jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked of every study, and the columns that all answers share."""

    findings: tuple[str, ...]
    descriptors: DescriptorSet
    provenance: Provenance
    sides: bool = False
    """Whether a finding is also looked for on the left and on the right, see `EvaluateConfig.grounding_prompts`."""

    def texts(self, finding: str) -> tuple[str, ...]:
        """The sentences whose maps, patch by patch the highest, are compared with the finding's regions."""
        named = self.descriptors.of(finding, prompts="finding")[0].positive
        if not self.sides:
            return (named,)
        sided = (sentence_text(finding, Certainty.PRESENT, location=side) for side in ("left", "right"))
        return tuple(dict.fromkeys((named, *sided)))

    def maps(
        self, engine: "Engine", features: "ImageFeatures", finding: str
    ) -> Float[np.ndarray, "image rows columns"]:
        """The finding's map on every image."""
        highest: np.ndarray = engine.maps_of(self.texts(finding), features).max(axis=0)
        return highest


def predict(engine: "Engine", reader: ShardReader, config: EvaluateConfig, *, questions: Questions) -> Rows:
    """The rows of every task of `config`, from one look at every image.

    Raises:
        DataError: for an image that cannot be decoded or a region that does not fit its image.
    """
    rows: Rows = {task: [] for task in config.tasks}
    jobs = plan(reader, config, questions.findings)
    for job in jobs:
        if not job.images:
            _refuse(rows, job, config, questions)
    seen = [job for job in jobs if job.images]
    for group in _groups(progress(seen, description="studies through the model", unit="studies"), config.batch_images):
        look = _look(engine, reader, group)
        _classify(rows, look, config, questions)
        _embed(rows, look, questions)
        _ground(rows, look, questions)
    return rows


def resolve_findings(reader: ShardReader, config: EvaluateConfig, descriptors: DescriptorSet) -> tuple[str, ...]:
    """The findings to ask for, in the descriptor set's own names, sorted.

    Raises:
        DataError: for a name nobody knows.
    """
    if config.findings != "auto":
        return tuple(sorted({descriptors.resolve(name) for name in config.findings}))
    positive = {
        finding
        for study in reader.studies(config.split)
        for finding, certainty in study.labels.items()
        if certainty == Certainty.PRESENT
    }
    return tuple(sorted(positive & set(descriptors.findings) - {"no finding"}))


def prompts_of(descriptors: DescriptorSet, findings: Sequence[str]) -> list[tuple[str, str, str]]:
    """(descriptor id, positive, negative) of every pair that is asked: what `prompt_set_hash` is made from."""
    return [
        (pair.id, pair.positive, pair.negative)
        for finding in findings
        for pair in descriptors.of(finding, prompts="both")
    ]


def _job(reader: ShardReader, key: str, config: EvaluateConfig, findings: set[str]) -> Job:
    study = reader.study(key)
    frontal = reader.sample(key).frontal
    images = tuple(range(len(study.images))) if config.views == "mean" else frontal[:1]
    scored, gallery = study.split == config.split, study.split in config.gallery
    shown = {study.images[index].id for index in images}
    has_region = any(
        region.finding in findings and region.image in shown and region.kind != "point" for region in study.regions
    )
    wanted: dict[Task, bool] = {
        "classification": scored,
        "grounding": has_region and study.split in (config.split, config.threshold_split),
        "retrieval": scored or gallery,
    }
    return Job(
        key=key,
        study=study,
        images=images,
        tasks=frozenset(task for task in config.tasks if wanted[task]),
        query=scored,
        gallery=gallery,
    )


def _groups(jobs: Iterator[Job], batch_images: int) -> Iterator[list[Job]]:
    """Jobs in groups of at most `batch_images` images (or one job, however many it has)."""
    group: list[Job] = []
    for job in jobs:
        if group and sum(len(one.images) for one in group) + len(job.images) > batch_images:
            yield group
            group = []
        group.append(job)
    if group:
        yield group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """Some studies and what the model sees on their images."""

    engine: "Engine"
    jobs: list[Job]
    places: list[tuple[int, int]]
    """Per image (number of its job, index among the images of its study)."""
    features: "ImageFeatures"
    placements: "tuple[Placement, ...]"

    @property
    def owner(self) -> list[int]:
        """Per image the number of its job."""
        return [number for number, _ in self.places]

    def asked(self, task: Task) -> list[tuple[int, Job]]:
        """The jobs a task needs, with their numbers."""
        return [(number, job) for number, job in enumerate(self.jobs) if task in job.tasks]


def _look(engine: "Engine", reader: ShardReader, jobs: list[Job]) -> _Look:
    places = [(number, index) for number, job in enumerate(jobs) for index in job.images]
    features, placements = engine.features([engine.see(reader, jobs[number].key, index) for number, index in places])
    return _Look(engine=engine, jobs=jobs, places=places, features=features, placements=placements)


def _classify(rows: Rows, look: _Look, config: EvaluateConfig, questions: Questions) -> None:
    asked = look.asked("classification")
    for name in config.score_names if asked else ():
        evidence = weigh(
            look.engine, look.features, questions.findings, descriptors=questions.descriptors, prompts=name
        ).fused(look.owner)
        for number, job in asked:
            scores = dict(zip(evidence.findings, evidence.scores[number].tolist(), strict=True))
            rows["classification"] += _scores(job, name, scores, questions)


def _embed(rows: Rows, look: _Look, questions: Questions) -> None:
    asked = look.asked("retrieval")
    vectors = look.engine.vectors(look.features) if asked else np.zeros((0, 0))
    for number, job in asked:
        own = [index for index, owner in enumerate(look.owner) if owner == number]
        rows["retrieval"].append(_case(job, vectors[own].mean(axis=0).tolist(), questions))


def _ground(rows: Rows, look: _Look, questions: Questions) -> None:
    if not look.asked("grounding"):
        return
    maps = np.stack([questions.maps(look.engine, look.features, finding) for finding in questions.findings])
    for position, (number, index) in enumerate(look.places):
        job = look.jobs[number]
        if "grounding" in job.tasks:
            one = replace(job, images=(index,))
            rows["grounding"] += _grounded(one, maps[:, position], look.placements[position], questions)


def _scores(job: Job, name: str, scores: Mapping[str, float | None], questions: Questions) -> list[dict[str, Any]]:
    return [
        {
            **questions.provenance.columns(),
            **job.columns(),
            "finding": finding,
            "score_name": name,
            "score": scores[finding],
            "score_type": SCORE_TYPE,
            "label": str(job.study.labels[finding]) if finding in job.study.labels else None,
        }
        for finding in questions.findings
    ]


def _case(job: Job, vector: list[float], questions: Questions) -> dict[str, Any]:
    present = [finding for finding in questions.findings if job.study.labels.get(finding) == Certainty.PRESENT]
    return {
        **questions.provenance.columns(),
        **job.columns(),
        "query": job.query,
        "gallery": job.gallery,
        "findings": present,
        "embedding": vector,
    }


def _grounded(job: Job, maps: np.ndarray, placement: "Placement", questions: Questions) -> list[dict[str, Any]]:
    """One row per finding that has a region on the job's one image."""
    image = job.study.images[job.images[0]].id
    rows, columns = placement.original
    found = []
    for finding, grid in zip(questions.findings, maps, strict=True):
        truth = grounding.true_mask(job.study.regions, finding=finding, image=image, rows=rows, columns=columns)
        if truth is None:
            continue
        kinds = sorted(
            {region.kind for region in job.study.regions if (region.finding, region.image) == (finding, image)}
            - {"point"}
        )
        found.append(
            {
                **questions.provenance.columns(),
                **job.columns(),
                "finding": finding,
                "text": " | ".join(questions.texts(finding)),
                "region_kind": " ".join(kinds),
                **grounding.measure(placement.map_to_original(grid), truth),
            }
        )
    return found


def _refuse(rows: Rows, job: Job, config: EvaluateConfig, questions: Questions) -> None:
    nothing = dict.fromkeys(questions.findings)
    if "classification" in job.tasks:
        for name in config.score_names:
            rows["classification"] += _scores(job, name, nothing, questions)
    if "retrieval" in job.tasks:
        rows["retrieval"].append(_case(job, [], questions))
