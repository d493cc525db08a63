from dataclasses import replace

import numpy as np
import pytest

from vlp.data import open_shards
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.predict import predict
from vlp.evaluate.prior import mean_masks
from vlp.evaluate.questions import Questions
from vlp.evaluate.retrieval import Gallery
from vlp.evaluate.retrieval_rankers import thumbnail
from vlp.inference.classify import weigh
from vlp.records import Mask, Region, Study

FINDINGS = ("cardiomegaly", "mass", "pleural effusion")


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


def test_cases_carry_what_baselines_and_votes_need(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    asked = settings.model_copy(update={"tasks": ("retrieval",)})
    rows = predict(engine, reader, asked, questions=questions)["retrieval"]
    seen = [row for row in rows if row["status"] == "ok"]
    assert len(seen) < len(rows)
    for row in seen:
        study = reader.study(row["study_id"])
        said = {name: str(certainty) for name, certainty in study.labels.items()}
        assert {name: "present" for name in row["findings"]} | {name: "absent" for name in row["absent"]} | {
            name: "uncertain" for name in row["uncertain"]
        } == said
        assert np.linalg.norm(row["tower"]) == pytest.approx(1.0, abs=2e-3)
        looked = engine.looked([reader.image(row["study_id"], 0)])
        assert row["tower"] == pytest.approx(
            looked.tower[0].numpy() / np.linalg.norm(looked.tower[0].numpy()), abs=2e-3
        )
        assert row["thumbnail"] == pytest.approx(thumbnail(looked.seen[0].pixels), abs=2e-3)
    assert all(row["tower"] == row["thumbnail"] == [] for row in rows if row["status"] != "ok")


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


def test_other_wordings_and_usual_places_come_from_the_same_look(
    engine, settings: EvaluateConfig, questions: Questions, whole
) -> None:
    reader = open_shards(whole)
    tasks = ("classification", "grounding", "negation", "anatomy")
    asked = settings.model_copy(update={"tasks": tasks, "paraphrases": True})
    priors = mean_masks(reader, (*FINDINGS, "lungs"))
    rows = predict(engine, reader, asked, questions=replace(questions, anatomy=("lungs",), priors=priors))
    assert set(rows) == {*tasks, "prior", "paraphrases"}
    assert len(rows["negation"]) == 24 * 3
    assert {row["finding"] for row in rows["anatomy"]} == {"lungs"}
    assert len(rows["anatomy"]) == 24 + 12
    located = [(row["study_id"], row["finding"]) for row in rows["grounding"] + rows["anatomy"]]
    assert sorted((row["study_id"], row["finding"]) for row in rows["prior"]) == sorted(located)
    truth = {(row["study_id"], row["finding"]): row["truth_px"] for row in rows["grounding"] + rows["anatomy"]}
    assert all(row["truth_px"] == truth[row["study_id"], row["finding"]] for row in rows["prior"])


def test_published_protocols_are_scores_of_their_own(engine, settings: EvaluateConfig, questions: Questions) -> None:
    reader = open_shards(settings.shards)
    asked = settings.model_copy(update={"tasks": ("classification",), "compared_prompts": ("radzero", "xplainer")})
    rows = predict(engine, reader, asked, questions=questions)["classification"]
    assert {row["score_name"] for row in rows} == {"both", "radzero", "xplainer"}
    values = {
        name: [row["score"] for row in sorted(rows, key=name_of) if row["score_name"] == name and row["status"] == "ok"]
        for name in ("both", "radzero", "xplainer")
    }
    assert len({len(one) for one in values.values()}) == 1
    assert values["radzero"] != values["xplainer"] != values["both"]
    assert all(0.0 < value < 1.0 for one in values.values() for value in one)


def test_fitted_weights_give_a_score_of_their_own_beside_the_plain_one(
    engine, settings: EvaluateConfig, questions: Questions, calibration_of
) -> None:
    reader = open_shards(settings.shards)
    ids = [pair.id for name in FINDINGS for pair in questions.descriptors.of(name, prompts="both")]
    pooled = {"kind": "log_odds", "weights": dict.fromkeys(ids, 2.0), "bias": dict.fromkeys(FINDINGS, -1.0)}
    asked = settings.model_copy(
        update={
            "tasks": ("classification",),
            "pooling": "calibrated",
            "compared_prompts": ("both",),
            "calibration": settings.output,
        }
    )
    fitted = calibration_of(settings.shards, pooled_by=pooled)
    rows = predict(engine, reader, asked, questions=replace(questions, calibration=fitted))["classification"]
    key = next(row["study_id"] for row in rows if row["status"] == "ok")
    scores = {row["score_name"]: row["score"] for row in rows if (row["study_id"], row["finding"]) == (key, "mass")}
    evidence = weigh(engine, engine.features([engine.see(reader, key)])[0], ("mass",))
    logits = np.log(evidence.probability / (1.0 - evidence.probability))
    assert scores["both"] == pytest.approx(float(evidence.scores[0, 0]), abs=1e-6)
    assert scores["calibrated"] == pytest.approx(float(1.0 / (1.0 + np.exp(1.0 - 2.0 * logits.sum()))), abs=1e-6)
