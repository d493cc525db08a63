import json
from pathlib import Path

import cv2

from vlp.data import open_shards
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.examples import WITH_REGIONS, WITHOUT_REGIONS, choose
from vlp.evaluate.report import read_examples


def located(finding: str, key: str, split: str = "test", status: str = "ok", *, hit: bool = True) -> dict[str, object]:
    return {"finding": finding, "study_id": key, "split": split, "status": status, "hit": hit}


def test_first_key_wins_whatever_the_model_said(settings: EvaluateConfig) -> None:
    rows = [
        located("mass", "b"),
        located("mass", "a", hit=False),
        located("edema", "a"),
        located("hernia", "0", split="val"),
        located("nodule", "c"),
    ]
    chosen, rule = choose({"grounding": rows}, settings)
    assert chosen == [("mass", "a"), ("nodule", "c")]
    assert rule == WITH_REGIONS
    assert choose({"grounding": rows}, settings.model_copy(update={"examples": 1}))[0] == [("mass", "a")]


def test_without_regions_labels_choose(settings: EvaluateConfig) -> None:
    rows = [located("edema", "b") | {"label": "present"}, located("mass", "a") | {"label": "absent"}]
    chosen, rule = choose({"classification": rows}, settings)
    assert chosen == [("edema", "b")]
    assert rule == WITHOUT_REGIONS


def test_examples_hold_all_a_page_needs(evaluated: Path, settings: EvaluateConfig) -> None:
    found = read_examples(evaluated)
    assert [example["finding"] for example in found] == ["mass", "pleural effusion"]
    reader = open_shards(settings.shards)
    for example in found:
        assert example["hit"] is True
        study = reader.study(example["study"])
        assert example["finding"] in {region.finding for region in study.regions}
        assert example["report"] == study.report.text
        assert max(example["scores"], key=lambda one: one["score"])["label"] == "present"
        people = {reader.study(case["study"]).person.id for case in example["cases"]}
        assert len(example["cases"]) == 3
        assert study.person.id not in people
        for name in (example["image"], example["map"], *(case["image"] for case in example["cases"])):
            assert cv2.imread(str(evaluated / "examples" / name)) is not None
        total = sum(one["contribution"] for one in example["evidence"])
        own = next(one["score"] for one in example["scores"] if one["finding"] == example["finding"])
        assert json.dumps(example)
        assert abs(0.5 * 2.718281828459045**total - own) < 1e-6
