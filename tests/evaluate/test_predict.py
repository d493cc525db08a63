from dataclasses import replace

import numpy as np
import pytest

from vlp.data import open_shards
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.predict import predict
from vlp.evaluate.predictions import Provenance
from vlp.evaluate.questions import Questions
from vlp.evaluate.retrieval import Gallery
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Mask, Region, Study

FINDINGS = ("cardiomegaly", "mass", "pleural effusion")


@pytest.fixture
def questions() -> Questions:
    provenance = Provenance(dataset_version="1", checkpoint_hash="2", prompt_set_hash="3", preprocess_hash="4")
    return Questions(findings=FINDINGS, descriptors=load_descriptors(), provenance=provenance)


def name_of(row: dict[str, object]) -> tuple[str, str, str]:
    return str(row["study_id"]), str(row["finding"]), str(row["score_name"])


def test_one_row_per_study_finding_and_score(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    rows = predict(engine, reader, settings, questions=questions)
    names = {(row["study_id"], row["finding"], row["score_name"]) for row in rows["classification"]}
    assert names == {
        (key, name, score) for key in reader.keys("test") for name in FINDINGS for score in ("both", "finding")
    }
    assert len(rows["classification"]) == len(names)
    for row in rows["classification"]:
        assert row["label"] == reader.study(row["study_id"]).labels[row["finding"]]
        assert row["prompt_set_hash"] == "3"
    assert {row["split"] for row in rows["grounding"]} == {"test", "val"}


def test_scores_do_not_depend_on_the_batch(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    one_by_one = predict(engine, reader, settings.model_copy(update={"batch_images": 1}), questions=questions)
    together = predict(engine, reader, settings.model_copy(update={"batch_images": 64}), questions=questions)
    for task in settings.tasks:
        assert len(one_by_one[task]) == len(together[task])
    ordered = [sorted(rows["classification"], key=name_of) for rows in (one_by_one, together)]
    for left, right in zip(*ordered, strict=True):
        assert left["status"] == right["status"]
        if left["status"] == "ok":
            assert left["score"] == pytest.approx(right["score"], abs=1e-6)


def test_regions_are_measured_on_their_own_image(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    rows = predict(engine, reader, settings, questions=questions)["grounding"]
    for row in rows:
        regions = [one for one in reader.study(row["study_id"]).regions if one.finding == row["finding"]]
        assert row["region_kind"] == regions[0].kind
        assert row["truth_px"] == 256
        assert row["text"] == questions.texts(row["finding"])[0]


def test_sides_are_the_patchwise_highest_of_the_named_and_the_sided_prompts(
    engine, settings: EvaluateConfig, questions: Questions
) -> None:
    reader = open_shards(settings.shards)
    sided = replace(questions, sides=True)
    finding = "mass"
    texts = sided.texts(finding)
    assert texts[0] == questions.texts(finding)[0]
    assert {word for text in texts for word in ("left", "right") if word in text} == {"left", "right"}
    features, _ = engine.features([reader.image(reader.keys("test")[0], 0)])
    one_by_one = [engine.maps_of((text,), features)[0] for text in texts]
    rows, columns = one_by_one[0].shape[1:]
    expected = [[max(m[0, r, c] for m in one_by_one) for c in range(columns)] for r in range(rows)]
    assert np.allclose(sided.maps(engine, features, finding)[0], expected)


def test_the_kind_of_a_region_is_that_of_the_measured_ones(
    engine, settings: EvaluateConfig, questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point has no extent to measure, and a region on another view is not this image's."""
    reader = open_shards(settings.shards)
    wanted = {(row["study_id"], row["finding"]): row["region_kind"]
              for row in predict(engine, reader, settings, questions=questions)["grounding"]}  # fmt: skip
    plain = reader.study

    def with_more_regions(key: str) -> Study:
        study = plain(key)
        more = [Region(finding=one.finding, image=one.image, geometry=(1.0, 1.0)) for one in study.regions]
        more += [
            Region(finding=one.finding, image="another view", geometry=geometry)
            for one in study.regions
            for geometry in ((0.0, 0.0, 1.0, 1.0), Mask.encode(np.ones((2, 2), dtype=bool)))
        ]
        return replace(study, regions=(*study.regions, *more))

    monkeypatch.setattr(reader, "study", with_more_regions)
    rows = predict(engine, reader, settings, questions=questions)["grounding"]
    assert {(row["study_id"], row["finding"]): row["region_kind"] for row in rows} == wanted


def test_lateral_only_studies_are_refused_or_averaged(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    lateral = {key for key in reader.keys("test") if not reader.sample(key).frontal}
    rows = predict(engine, reader, settings, questions=questions)
    assert {row["study_id"] for row in rows["classification"] if row["status"] == "refused"} == lateral
    assert len(Gallery(rows["retrieval"]).cases) == 28
    averaged = predict(engine, reader, settings.model_copy(update={"views": "mean"}), questions=questions)
    assert all(row["status"] == "ok" for row in averaged["classification"])


def test_the_gallery_can_hold_other_splits(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    wide = settings.model_copy(update={"gallery": ("test", "val"), "tasks": ("retrieval",)})
    gallery = Gallery(predict(engine, reader, wide, questions=questions)["retrieval"])
    assert (len(gallery.queries), len(gallery.cases)) == (28, 40)
    assert np.linalg.norm(gallery.cases[0]["embedding"]) == pytest.approx(1.0, abs=1e-5)


def test_only_what_a_task_needs_is_looked_at(settings: EvaluateConfig) -> None:
    reader = open_shards(settings.shards)
    alone = settings.model_copy(update={"tasks": ("classification",)})
    assert {job.key for job in plan(reader, alone, FINDINGS)} == set(reader.keys("test"))
    grounded = plan(reader, settings.model_copy(update={"tasks": ("grounding",)}), FINDINGS)
    assert all(job.study.regions for job in grounded)


def test_auto_findings_have_prompts_and_positives(settings: EvaluateConfig) -> None:
    reader, descriptors = open_shards(settings.shards), load_descriptors()
    assert resolve_findings(reader, settings, descriptors) == FINDINGS
    spelled = settings.model_copy(update={"findings": ("Effusion", "Mass")})
    assert resolve_findings(reader, spelled, descriptors) == ("mass", "pleural effusion")
    with pytest.raises(DataError, match="happiness"):
        resolve_findings(reader, settings.model_copy(update={"findings": ("happiness",)}), descriptors)


def test_prompt_set_follows_the_wording() -> None:
    descriptors = load_descriptors()
    pair = descriptors.named["mass"]
    changed = replace(descriptors, named={**descriptors.named, "mass": replace(pair, positive="There is a big mass.")})
    assert prompts_of(descriptors, FINDINGS) != prompts_of(changed, FINDINGS)
