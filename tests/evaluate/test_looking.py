import numpy as np

from vlp.data import open_shards
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.looking import groups, labels_of, look, plan

FINDINGS = ("cardiomegaly", "mass", "pleural effusion")


def test_only_what_a_task_needs_is_looked_at(settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    alone = settings.model_copy(update={"tasks": ("classification",)})
    assert {job.key for job in plan(reader, alone, FINDINGS)} == set(reader.keys("test"))
    grounded = plan(reader, settings.model_copy(update={"tasks": ("grounding",)}), FINDINGS)
    assert all(job.study.regions for job in grounded)


def test_parts_of_the_body_are_looked_at_where_they_have_regions(settings: EvaluateConfig, whole) -> None:
    reader = open_shards(whole)
    alone = settings.model_copy(update={"tasks": ("anatomy",)})
    assert plan(reader, alone, FINDINGS) == []
    jobs = plan(reader, alone, FINDINGS, anatomy=("lungs",))
    assert {job.key for job in jobs} == {*reader.keys("test"), *reader.keys("val")}
    both = plan(reader, settings.model_copy(update={"tasks": ("anatomy", "negation")}), FINDINGS, anatomy=("lungs",))
    assert all(("negation" in job.tasks) == (job.study.split == "test") for job in both)


def test_voters_and_those_they_are_counted_on_are_looked_at_up_to_a_number(settings: EvaluateConfig, whole) -> None:
    reader = open_shards(whole)
    alone = settings.model_copy(update={"tasks": ("retrieval",)})
    assert {job.study.split for job in plan(reader, alone, FINDINGS)} == {"test"}
    voting = alone.model_copy(update={"voters": ("train",), "most_voters": 5})
    jobs = plan(reader, voting, FINDINGS)
    keys = {split: sorted(job.key for job in jobs if job.study.split == split) for split in ("train", "val", "test")}
    every = {split: sorted(reader.keys(split)) for split in keys}
    assert keys == {"train": every["train"][:5], "val": every["val"][:5], "test": every["test"]}
    assert {job.query or job.gallery for job in jobs if job.study.split != "test"} == {False}


def test_groups_keep_within_the_batch_and_lose_nobody(settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    jobs = plan(reader, settings.model_copy(update={"views": "mean"}), FINDINGS)
    parts = list(groups(iter(jobs), 4))
    assert [job.key for part in parts for job in part] == [job.key for job in jobs]
    assert max(sum(len(job.images) for job in part) for part in parts) == 4


def test_a_study_is_the_mean_of_its_own_images(engine, settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    jobs = [job for job in plan(reader, settings, FINDINGS) if job.images][:3]
    doubled = look(engine, reader, jobs)
    seen = type(doubled)(engine=engine, jobs=jobs, places=[(0, 0), (2, 0), (1, 0), (2, 1)], looked=doubled.looked)
    means = seen.per_study(np.array([[1.0], [3.0], [2.0], [5.0]]))
    assert means[:, 0].tolist() == [1.0, 2.0, 4.0]


def test_labels_are_written_as_words_and_silence_as_none(settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    job = plan(reader, settings, FINDINGS)[0]
    labels = labels_of(job, (*FINDINGS, "hernia"))
    assert labels["hernia"] is None
    assert {labels[finding] for finding in FINDINGS} <= {"present", "absent", "uncertain"}
