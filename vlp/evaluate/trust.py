"""The page's sections about trust: scores beside each other, wordings, negation, parts of the body, probabilities."""

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vlp.evaluate import figures
from vlp.evaluate.config import suffix_of, words_of
from vlp.evaluate.results import ALL, MACRO, Result

if TYPE_CHECKING:
    from vlp.evaluate.page import Material


def comparison(material: "Material") -> list[dict[str, Any]]:
    """One line per score: macro AUROC and average precision, and the main score minus it; none for a score alone."""
    names = material.config.score_names
    if material.find("classification", "auroc") is None or len(names) < 2:
        return []
    lines = []
    for position, name in enumerate(names):
        suffix = suffix_of(name) if position else ""
        lines.append(
            {
                "name": words_of(name),
                "auroc": material.find("classification", f"auroc{suffix}"),
                "precision": material.find("classification", f"average_precision{suffix}"),
                "difference": material.find("classification", _difference(position, suffix)) if position else None,
            }
        )
    return lines


def wordings(material: "Material") -> dict[str, Any] | None:
    """Macro AUROC of every wording, worst last, with the spread."""
    rows = material.findings("classification", "auroc_paraphrases")
    if not rows:
        return None
    scale = figures.scale_for(rows, low=0.4)
    return {
        "axis": Markup(figures.axis(scale)),
        "lines": [{"result": row, "figure": Markup(figures.interval(row, scale, reference=0.5))} for row in rows],
        "spread": material.find("classification", "auroc_paraphrases_sd"),
    }


def negation(material: "Material") -> dict[str, Any] | None:
    """PNC, POS and NEG per finding, with polarity accuracy."""
    macro = material.find("negation", "auroc_pnc")
    if macro is None:
        return None
    rows = [macro, *material.findings("negation", "auroc_pnc")]
    scale = figures.scale_for(rows, low=0.4)
    others = ("auroc_pos", "auroc_neg", "polarity_accuracy", "polarity_accuracy_present", "polarity_accuracy_absent")

    def line(row: Result) -> dict[str, Any]:
        return {
            "result": row,
            "macro": row.finding == MACRO,
            "figure": Markup(figures.interval(row, scale, reference=0.5, macro=row.finding == MACRO)),
            "others": [material.find("negation", metric, row.finding) for metric in others],
        }

    return {"axis": Markup(figures.axis(scale)), "lines": [line(row) for row in rows]}


def anatomy(material: "Material") -> list[dict[str, Any]]:
    """Dice and IoU per part of the body, with what the mean training mask reaches."""
    return [
        {
            "result": row,
            "iou": material.find("anatomy", "iou", row.finding),
            "prior": material.find("anatomy", "dice_prior", row.finding),
        }
        for row in material.findings("anatomy", "dice")
    ]


_PROBABILITIES = {
    "ece_similarity": "ECE of the similarity",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "brier": "Brier",
    "slope": "Slope",
    "intercept": "Intercept",
}
_DECISIONS = {
    "coverage": "Coverage",
    "coverage_present": "of present",
    "coverage_absent": "of absent",
    "set_size": "Set size",
    "decided": "Decided",
    "error_decided": "wrong of these",
    "error_forced": "Wrong if forced",
    "aurc": "AURC",
}


def calibration(material: "Material") -> dict[str, Any] | None:
    """Everything about probabilities: curves, the tables, what the gate refused."""
    macro = material.find("calibration", "ece")
    if macro is None:
        return None
    rows = [macro, *sorted(material.findings("calibration", "ece"), key=lambda row: row.finding)]

    def table(columns: dict[str, str]) -> dict[str, Any]:
        lines = [
            {
                "result": row,
                "macro": row.finding == MACRO,
                "cells": [material.find("calibration", metric, row.finding) for metric in columns],
            }
            for row in rows
        ]
        return {"columns": list(columns.values()), "lines": lines}

    return {
        "reliability": Markup(figures.reliability(material.plots["before"], material.plots["after"])),
        "risk": Markup(figures.risk_coverage(material.plots["risk"])),
        "tables": [table(_PROBABILITIES), table(_DECISIONS)],
        "refused": material.find("calibration", "gate_refused", ALL),
    }


def cards(material: "Material") -> list[dict[str, Any]]:
    """Headline figures of these sections."""
    found = []
    pnc, ece = material.find("negation", "auroc_pnc"), material.find("calibration", "ece")
    if pnc is not None:
        found.append({"name": "Negation", "what": "macro AUROC of PNC", "result": pnc, "against": "chance: 0.500"})
    if ece is not None:
        before = material.find("calibration", "ece_similarity")
        against = "" if before is None or before.value is None else f"as similarity: {before.value:.3f}"
        found.append(
            {"name": "Calibration", "what": "expected calibration error, macro", "result": ece, "against": against}
        )
    return found


def _difference(position: int, suffix: str) -> str:
    """The name of the metric: the first compared score's difference goes without its name."""
    return "auroc_difference" if position == 1 else f"auroc_difference{suffix}"
