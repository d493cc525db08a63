import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vlp import config
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.page import Material, headline, html, markdown
from vlp.evaluate.report import read_examples, score


@pytest.fixture
def material(evaluated: Path) -> Material:
    import json

    settings = config.load(EvaluateConfig, evaluated / "evaluate.yaml")
    scored = score(evaluated, settings)
    meta = json.loads((evaluated / "results_meta.json").read_text()) | {"thresholds": scored.thresholds}
    return Material(
        title="Evaluation",
        results=scored.results,
        config=settings,
        meta=meta,
        plots=scored.plots,
        curves={"loss": [(1, 3.0), (2, 2.0)], "short": [(1, 1.0)]},
        examples=read_examples(evaluated),
        folder=evaluated / "examples",
    )


class Balance(HTMLParser):
    """Every tag that must be closed is."""

    VOID = frozenset({"meta", "img", "br", "hr", "line", "circle", "polygon", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        """A tag that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_from_outside(material: Material) -> None:
    page = html(material)
    balance = Balance()
    balance.feed(page)
    assert not balance.open
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "http" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page
    assert "Research use, not a medical device" in page
    assert page.count('class="curve"') == 1


def test_hostile_text_is_shown_not_run(material: Material) -> None:
    assert "<b>hostile</b>" not in html(material)
    assert "&lt;b&gt;hostile&lt;/b&gt; &amp; quoted" in html(material)
    named = [replace(row, finding="<script>alert(1)</script>") for row in material.results]
    page = html(replace(material, title="<script>alert(1)</script>", results=[*material.results, *named]))
    assert "<script" not in page


def test_numbers_on_the_page_are_the_results(material: Material) -> None:
    page = html(material)
    macro = material.find("classification", "auroc")
    assert f"{macro.value:.3f}" in page
    assert macro.low is None, "a perfect model: no resample differs, so there is no interval to show"
    similar = next(row for row in material.results if row.task == "retrieval" and row.low is not None)
    assert f"[{similar.low:.3f}, {similar.high:.3f}]" in page
    assert markdown(material).count("Research use, not a medical device") == 1
    assert [card["name"] for card in headline(material)] == ["Zero-shot diagnosis", "Localisation", "Retrieval"]
    assert "times that" in headline(material)[2]["against"]
    assert all(note in markdown(material) for note in material.meta["notes"])


def test_other_means_of_looking_and_the_vote_stand_beside_the_model(material: Material) -> None:
    rows = {row.metric: row for row in material.results if row.task == "retrieval"}
    page = html(material)
    assert "Metadata: cases of the same view, sex and decade of age" in page
    for name in ("metadata", "pixels", "tower"):
        assert f"{rows[f'precision_at_5_{name}'].value:.3f}" in page
    assert "What the nearest cases are labelled with" not in page
    vote = replace(rows["mrr"], metric="knn_auroc", finding="macro", value=0.876, low=0.8, high=0.9, method="by <vote>")
    voted = html(replace(material, results=[*material.results, vote, replace(vote, finding="mass", value=0.1234)]))
    assert "What the nearest cases are labelled with" in voted
    assert "0.876 [0.800, 0.900]" in voted
    assert "by &lt;vote&gt;" in voted
    old = [row for row in material.results if not row.metric.endswith(("_metadata", "_pixels", "_tower"))]
    assert "Metadata" not in html(replace(material, results=old))


def test_findings_stand_best_first_and_undefined_last(material: Material) -> None:
    base = material.findings("classification", "auroc")[0]
    rows = [
        replace(base, finding=name, value=value) for name, value in (("a", 0.2), ("b", None), ("c", 0.9), ("d", 0.9))
    ]
    ordered = replace(material, results=rows).findings("classification", "auroc")
    assert [row.finding for row in ordered] == ["c", "d", "a", "b"]


def test_a_page_of_one_task_is_a_page(material: Material) -> None:
    alone = replace(
        material,
        config=material.config.model_copy(update={"tasks": ("retrieval",)}),
        results=[row for row in material.results if row.task == "retrieval"],
        examples=[],
        curves={},
    )
    page = html(alone)
    assert "Retrieval of similar cases" in page
    assert "Zero-shot diagnosis" not in page


def test_a_lost_picture_is_named(material: Material, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a picture"):
        html(replace(material, folder=tmp_path))


def test_reports_are_shown_without_blank_lines_and_wraps(material: Material) -> None:
    example = {**material.examples[0], "report": "FINDINGS:\n\nThere is no mass\nor nodule.\n\n\nIMPRESSION: Normal."}
    page = html(replace(material, examples=[example]))
    assert "FINDINGS: There is no mass or nodule.\nIMPRESSION: Normal." in page


def test_scoring_the_training_split_is_never_called_held_out(material: Material) -> None:
    assert "held out from training" in html(material)
    page = html(replace(material, config=material.config.model_copy(update={"split": "train"})))
    assert "held out from training" not in page
