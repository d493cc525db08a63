import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlp import config
from vlp.evaluate import trust
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.page import Material, headline, html, markdown
from vlp.evaluate.report import read_examples, score


@pytest.fixture
def material(trusted: Path) -> Material:
    settings = config.load(EvaluateConfig, trusted / "evaluate.yaml")
    scored = score(trusted, settings)
    return Material(
        title="Evaluation",
        results=scored.results,
        config=settings,
        meta=json.loads((trusted / "results_meta.json").read_text()) | {"thresholds": scored.thresholds},
        plots=scored.plots,
        curves={},
        examples=read_examples(trusted),
        folder=trusted / "examples",
    )


def test_every_section_is_on_the_page(material: Material) -> None:
    page = html(material)
    for title in ("Scores beside each other", "How much the wording matters", "Negation", "Parts of the body",
                  "Calibrated probabilities", "Mean mask: pointing"):  # fmt: skip
        assert title in page
    assert page.count('class="curve"') == 2, "reliability, risk and coverage"
    assert "refused by the gate" not in page, "there was none"
    assert [card["name"] for card in headline(material)][-2:] == ["Negation", "Calibration"]
    assert "polarity_accuracy" in markdown(material)


def test_differences_stand_beside_the_score_they_are_about(material: Material) -> None:
    lines = trust.comparison(material)
    assert [line["name"] for line in lines] == ["both prompts", "finding prompts", "radzero protocol"]
    assert lines[0]["difference"] is None
    for line in lines[1:]:
        assert line["difference"].value == pytest.approx(lines[0]["auroc"].value - line["auroc"].value, abs=1e-6)
        assert f"minus that of {line['name']}" in line["difference"].method


def test_numbers_on_the_page_are_the_results(material: Material) -> None:
    page = html(material)
    for task, metric, finding in (
        ("negation", "auroc_pos", "mass"),
        ("anatomy", "dice", "lungs"),
        ("anatomy", "dice_prior", "lungs"),
        ("calibration", "brier", "mass"),
    ):
        assert f"{material.find(task, metric, finding).value:.3f}" in page


def test_the_gate_is_told_of_where_there_was_one(material: Material) -> None:
    base = material.find("calibration", "ece")
    refused = replace(base, metric="gate_refused", finding="all", value=0.125)
    assert "12.5 % of the studies were" in html(replace(material, results=[*material.results, refused]))


def test_sections_without_figures_are_left_out(material: Material) -> None:
    alone = replace(
        material,
        config=material.config.model_copy(update={"tasks": ("retrieval",), "compared_prompts": ()}),
        results=[row for row in material.results if row.task == "retrieval"],
        plots={},
        examples=[],
    )
    assert trust.comparison(alone) == trust.anatomy(alone) == trust.cards(alone) == []
    assert trust.wordings(alone) is trust.negation(alone) is trust.calibration(alone) is None
    assert "Negation" not in html(alone)
