from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlp.data import open_shards
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.questions import Questions, findings_labelled, prompts_of, resolve_anatomy, resolve_findings
from vlp.inference.lungs import ANATOMY
from vlp.prompts.descriptors import load_descriptors
from vlp.records import Certainty

FINDINGS = ("cardiomegaly", "mass", "pleural effusion")


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


def test_parts_of_the_body_are_those_with_regions_and_prompts(settings: EvaluateConfig, whole: Path) -> None:
    reader = open_shards(whole)
    asked = settings.model_copy(update={"tasks": ("anatomy",)})
    assert resolve_anatomy(reader, settings, FINDINGS) == ()
    assert resolve_anatomy(reader, asked, FINDINGS) == ("lungs",)
    assert resolve_anatomy(open_shards(settings.shards), asked, FINDINGS) == ()
    assert resolve_anatomy(reader, asked.model_copy(update={"anatomy": ("heart", "lungs")}), FINDINGS) == (
        "heart",
        "lungs",
    )
    with pytest.raises(DataError, match="no prompts for 'knee'"):
        resolve_anatomy(reader, asked.model_copy(update={"anatomy": ("knee",)}), FINDINGS)


def test_the_map_of_a_part_of_the_body_is_the_mean_of_its_prompts(
    engine, settings: EvaluateConfig, questions: Questions
) -> None:
    reader = open_shards(settings.shards)
    asked = replace(questions, anatomy=("heart",))
    features, _ = engine.features([reader.image(reader.keys("test")[0], 0)])
    one_by_one = np.stack([engine.maps_of((text,), features)[0] for text in ANATOMY["heart"]])
    assert asked.texts("heart") == ANATOMY["heart"]
    assert np.allclose(asked.maps(engine, features, "heart"), one_by_one.sum(axis=0) / len(one_by_one))


def test_only_what_is_said_to_be_present_is_positive() -> None:
    labels = {"mass": Certainty.PRESENT, "edema": Certainty.UNCERTAIN, "cardiomegaly": Certainty.ABSENT}
    assert findings_labelled(Certainty.PRESENT, labels, ("edema", "mass", "cardiomegaly", "hernia")) == ["mass"]
