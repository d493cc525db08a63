"""What an evaluation looks at: each study once, for all the tasks that need it, some images at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vlp.data import ShardReader
from vlp.evaluate.config import EvaluateConfig, Task
from vlp.evaluate.predictions import OK, REFUSED
from vlp.records import Study

if TYPE_CHECKING:
    from vlp.inference.engine import Engine, Looked
    from vlp.tensors import ImageFeatures, Placement

NO_FRONTAL = "no frontal view"


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


def plan(
    reader: ShardReader, config: EvaluateConfig, findings: Sequence[str], *, anatomy: Sequence[str] = ()
) -> list[Job]:
    """What is looked at, each study once: the scored split, regions of the threshold split, gallery, and voters."""
    splits = dict.fromkeys((config.split, config.threshold_split, *config.gallery, *config.voters))
    voting = (config.threshold_split, *config.voters) if config.voters else ()
    jobs = []
    for split in splits:
        keys = reader.keys(split)
        voters = frozenset(sorted(keys)[: config.most_voters]) if split in voting else frozenset()
        for key in keys:
            job = _job(reader, key, config, set(findings), set(anatomy), votes=key in voters)
            if job.tasks:
                jobs.append(job)
    return jobs


def _job(
    reader: ShardReader, key: str, config: EvaluateConfig, findings: set[str], anatomy: set[str], *, votes: bool
) -> Job:
    study = reader.study(key)
    frontal = reader.sample(key).frontal
    images = tuple(range(len(study.images))) if config.views == "mean" else frontal[:1]
    scored, gallery = study.split == config.split, study.split in config.gallery
    shown = {study.images[index].id for index in images}
    located = {region.finding for region in study.regions if region.image in shown and region.kind != "point"}
    measured = study.split in (config.split, config.threshold_split)
    wanted: dict[Task, bool] = {
        "classification": scored,
        "grounding": measured and bool(located & findings),
        "retrieval": scored or gallery or (votes and bool(images)),
        "negation": scored,
        "anatomy": measured and bool(located & anatomy),
        "calibration": scored,
    }
    return Job(
        key=key,
        study=study,
        images=images,
        tasks=frozenset(task for task in config.tasks if wanted[task]),
        query=scored,
        gallery=gallery,
    )


def groups(jobs: Iterator[Job], batch_images: int) -> Iterator[list[Job]]:
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
class Look:
    """Some studies and what the model sees on their images."""

    engine: "Engine"
    jobs: list[Job]
    places: list[tuple[int, int]]
    """Per image (number of its job, index among the images of its study)."""
    looked: "Looked"

    @property
    def features(self) -> "ImageFeatures":
        """Of the images, in the order of `places`."""
        return self.looked.features

    @property
    def placements(self) -> "tuple[Placement, ...]":
        """Where the images' pixels went."""
        return self.looked.placements

    @property
    def owner(self) -> list[int]:
        """Per image the number of its job."""
        return [number for number, _ in self.places]

    def asked(self, task: Task) -> list[tuple[int, Job]]:
        """The jobs a task needs, with their numbers."""
        return [(number, job) for number, job in enumerate(self.jobs) if task in job.tasks]

    def per_study(self, values: Float[np.ndarray, "image column"]) -> Float[np.ndarray, "job column"]:
        """Values of images averaged over those of each study."""
        total = np.zeros((len(self.jobs), values.shape[1]))
        np.add.at(total, self.owner, values)
        means: np.ndarray = total / np.bincount(self.owner, minlength=len(self.jobs))[:, None]
        return means


def look(engine: "Engine", reader: ShardReader, jobs: list[Job]) -> Look:
    """The images of some studies, each with at least one, through the model.

    Raises:
        DataError: for an image that cannot be decoded.
    """
    places = [(number, index) for number, job in enumerate(jobs) for index in job.images]
    seen = [engine.see(reader, jobs[number].key, index) for number, index in places]
    return Look(engine=engine, jobs=jobs, places=places, looked=engine.looked(seen))


def labels_of(job: Job, findings: Sequence[str]) -> Mapping[str, str | None]:
    """What the study is labelled with, as the prediction files write it; None where it says nothing."""
    return {finding: str(job.study.labels[finding]) if finding in job.study.labels else None for finding in findings}
