"""What `report.html` and `report.md` show, gathered from results and facts; the template only arranges it."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vlp.errors import DataError
from vlp.evaluate import figures, trust
from vlp.evaluate.config import EvaluateConfig, suffix_of, words_of
from vlp.evaluate.results import ALL, AVERAGES, MACRO, MACRO_LARGE, Result, find
from vlp.evaluate.retrieval import figures as figures_of_ranking
from vlp.evaluate.retrieval_rankers import WORDS as BASELINES
from vlp.metrics.estimate import format_interval

TEMPLATE = "report.html"
"""Beside this file, with the sections it includes."""
_SMOOTH_POINTS = 60
_JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Everything a page is made from."""

    title: str
    results: Sequence[Result]
    config: EvaluateConfig
    meta: Mapping[str, Any]
    plots: Mapping[str, Sequence[Any]]
    """Points of the curves about calibration, see `vlp.evaluate.calibration.plots`; empty without that task."""
    curves: Mapping[str, Sequence[tuple[float, float]]]
    """Per column of the training log its (step, value) pairs."""
    examples: Sequence[Mapping[str, Any]]
    folder: Path
    """Where the pictures of the examples lie."""

    def find(self, task: str, metric: str, finding: str = MACRO) -> Result | None:
        """The result of that name."""
        return find(self.results, task=task, metric=metric, finding=finding)

    def findings(self, task: str, metric: str) -> list[Result]:
        """The results of a metric per finding, best first, undefined ones last."""
        rows = [row for row in self.results if (row.task, row.metric) == (task, metric) and row.finding not in AVERAGES]
        return sorted(rows, key=lambda row: (row.value is None, -(row.value or 0.0), row.finding))


def html(material: Material) -> str:
    """The whole page; every text is escaped, every picture and style is inside."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        title=material.title,
        config=material.config,
        meta=material.meta,
        headline=headline(material),
        curves=[_curve(name, points) for name, points in material.curves.items() if len(points) > 1],
        diagnosis=_diagnosis(material),
        localisation=_localisation(material),
        retrieval=_retrieval(material),
        comparison=trust.comparison(material),
        wordings=trust.wordings(material),
        negation=trust.negation(material),
        anatomy=trust.anatomy(material),
        calibration=trust.calibration(material),
        examples=[_example(example, material.folder) for example in material.examples],
    )


def markdown(material: Material) -> str:
    """The figures as plain tables, for a terminal or a merge request."""
    lines = [f"# {material.title}", ""]
    lines += [f"- {note}" for note in material.meta["notes"]]
    for task in material.config.tasks:
        rows = [row for row in material.results if row.task == task]
        lines += ["", f"## {task}", "", "| metric | finding | value | patients | positive |", "|---|---|---|---:|---:|"]
        lines += [
            f"| {row.metric} | {_cell(row.finding)} | {row.text} | {row.n_patients} | {row.n_positive} |"
            for row in rows
        ]
    share = f"{material.config.level:.0%}"
    lines += [
        "",
        f"Intervals: {share}, {material.config.resamples} resamples of patients, seed {material.config.seed}.",
        "",
    ]
    return "\n".join(lines)


def headline(material: Material) -> list[dict[str, Any]]:
    """The figures people ask for first, each with the rate of chance beside it."""
    k = 5 if 5 in material.config.ks else material.config.ks[0]
    wanted = [
        ("Zero-shot diagnosis", "macro AUROC", material.find("classification", "auroc"), None),
        (
            "Localisation",
            "pointing game, macro over focal findings",
            material.find("grounding", "pointing_game"),
            material.find("grounding", "pointing_game_random"),
        ),
        (
            "Retrieval",
            f"precision at {k}",
            material.find("retrieval", f"precision_at_{k}", ALL),
            material.find("retrieval", f"precision_at_{k}_random", ALL),
        ),
    ]
    cards = []
    for name, what, row, chance in wanted:
        if row is None:
            continue
        against = "chance: 0.500"
        if chance is not None:
            against = "chance: n/a" if chance.value is None else f"chance: {chance.value:.3f}"
        if row.task == "retrieval":
            times = material.find("retrieval", f"precision_at_{k}_over_random", ALL)
            against += (
                "" if times is None else f"; {format_interval(times.value, times.low, times.high, digits=2)} times that"
            )
        cards.append({"name": name, "what": what, "result": row, "against": against})
    return cards + trust.cards(material)


def _diagnosis(material: Material) -> dict[str, Any] | None:
    macro = material.find("classification", "auroc")
    if macro is None:
        return None
    rows = material.findings("classification", "auroc")
    scale = figures.scale_for([*rows, macro], low=0.4)
    main, *others = material.config.score_names
    compared = [name for name in others if name not in material.config.protocols]

    def line(row: Result) -> dict[str, Any]:
        return {
            "result": row,
            "macro": row.finding == MACRO,
            "figure": Markup(figures.interval(row, scale, reference=0.5, macro=row.finding == MACRO)),
            "precision": material.find("classification", "average_precision", row.finding),
            "compared": [material.find("classification", f"auroc{suffix_of(name)}", row.finding) for name in compared],
            "exact": material.find("classification", "auroc_delong", row.finding),
        }

    return {
        "lines": [line(row) for row in (macro, *rows)],
        "axis": Markup(figures.axis(scale)),
        "main": words_of(main),
        "compared": compared,
    }


def _localisation(material: Material) -> dict[str, Any] | None:
    macro = material.find("grounding", "pointing_game")
    if macro is None:
        return None
    rows = material.findings("grounding", "pointing_game")
    priors = ("pointing_game_prior", "dice_prior") if material.find("grounding", "dice_prior") else ()
    scale = figures.Scale(0.0, 1.0)

    def line(row: Result) -> dict[str, Any]:
        chance = material.find("grounding", "pointing_game_random", row.finding)
        reference = None if chance is None else chance.value
        return {
            "result": row,
            "macro": row.finding == MACRO,
            "focal": row.finding in material.config.focal,
            "chance": chance,
            "figure": Markup(figures.interval(row, scale, reference=reference, macro=row.finding == MACRO)),
            "dice": material.find("grounding", "dice", row.finding),
            "iou": material.find("grounding", "iou", row.finding),
            "priors": [material.find("grounding", metric, row.finding) for metric in priors],
            "threshold": material.meta["thresholds"].get(row.finding),
        }

    large = material.find("grounding", "dice", MACRO_LARGE)
    return {
        "lines": [line(row) for row in (macro, *rows)],
        "axis": Markup(figures.axis(scale)),
        "priors": bool(priors),
        "large": large if large is not None and large.value is not None else None,
    }


def _retrieval(material: Material) -> dict[str, Any] | None:
    names = figures_of_ranking(material.config)
    baselines = [name for name in BASELINES if material.find("retrieval", f"{names[0]}_{name}", ALL)]
    scale = figures.Scale(0.0, 1.0)
    lines = []
    for name in names:
        row = material.find("retrieval", name, ALL)
        if row is not None:
            chance = material.find("retrieval", f"{name}_random", ALL)
            reference = None if chance is None else chance.value
            lines.append(
                {
                    "name": _figure_name(name),
                    "result": row,
                    "chance": chance,
                    "times": material.find("retrieval", f"{name}_over_random", ALL),
                    "others": [material.find("retrieval", f"{name}_{other}", ALL) for other in baselines],
                    "figure": Markup(figures.interval(row, scale, reference=reference)),
                }
            )
    if not lines:
        return None
    return {
        "lines": lines,
        "axis": Markup(figures.axis(scale)),
        "baselines": {name: BASELINES[name] for name in baselines},
        "vote": _vote(material, baselines),
    }


def _figure_name(name: str) -> str:
    """A figure's name as people write it."""
    for written, meant in (("ndcg", "nDCG"), ("map_at_r", "mAP@R"), ("mrr", "MRR"), ("_", " ")):
        name = name.replace(written, meant)
    return name


def _vote(material: Material, baselines: Sequence[str]) -> dict[str, Any] | None:
    """How well the labels of the nearest cases tell the findings, per finding, with the macro average of others."""
    macro = material.find("retrieval", "knn_auroc")
    if macro is None:
        return None
    rows = [macro, *material.findings("retrieval", "knn_auroc")]
    scale = figures.scale_for(rows, low=0.4)
    lines = [
        {
            "result": row,
            "macro": row.finding == MACRO,
            "figure": Markup(figures.interval(row, scale, reference=0.5, macro=row.finding == MACRO)),
            "others": [material.find("retrieval", f"knn_auroc_{other}", row.finding) for other in baselines],
        }
        for row in rows
    ]
    return {"lines": lines, "axis": Markup(figures.axis(scale)), "method": macro.method}


def _curve(name: str, points: Sequence[tuple[float, float]]) -> Markup:
    smooth = max(1, len(points) // 40) if len(points) > _SMOOTH_POINTS else 1
    return Markup(figures.curve(points, title=name.replace("_", " "), smooth=smooth))


def _example(example: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    strongest = max((abs(one["contribution"]) for one in example["evidence"]), default=0.0) or 1.0
    return {
        **example,
        "image": _embedded(folder / example["image"]),
        "map": _embedded(folder / example["map"]),
        "evidence": [
            {**one, "width": abs(one["contribution"]) / strongest * 50.0, "speaks_for": one["contribution"] > 0}
            for one in example["evidence"]
        ],
        "report": _condensed(example["report"]),
        "cases": [
            {**case, "image": _embedded(folder / case["image"]), "report": _condensed(case["report"])}
            for case in example["cases"]
        ],
    }


def _condensed(text: str | None) -> str:
    """A report without blank lines and hard wraps, headings on the line of their text, to show more of it at once."""
    lines = re.sub(r"[ \t]*\n\s*", "\n", (text or "").strip())
    return re.sub(r":\n(?=\S)", ": ", re.sub(r"\n(?=[a-z])", " ", lines))


def _embedded(path: Path) -> str:
    """A picture of the examples folder as a JPEG within the page, a sixth of the PNG's size.

    Raises:
        DataError: if it is missing or damaged.
    """
    picture = cv2.imread(str(path))
    if picture is None:
        raise DataError(f"{path}: missing or not a picture; run `vlp evaluate` again")
    _, content = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
