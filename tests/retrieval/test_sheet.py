import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.retrieval import sheet
from vlp.retrieval.search import Hit, Hits
from vlp.retrieval.sheet import gather, radiograph, veil, write_sheet
from vlp.retrieval.why import Asked, MatchedSentence, SimilarityMap, Why, overlap
from vlp.tensors import Placement

HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(1)>"


class Page(HTMLParser):
    """Every element of a page with its attributes, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def hits_of(reader: ShardReader, count: int, **changes: Any) -> Hits:
    found = [
        Hit(
            key=key,
            image=0,
            score=0.9 - 0.01 * rank,
            study="STUDY-ID",
            person="PERSON-ID",
            view="PA",
            split="train",
            present=("mass", "nodule"),
            report=None,
            age=87.0,
            sex="F",
            source="SOURCE-NAME",
            synthetic=True,
            **changes,
        )
        for rank, key in enumerate(reader.keys()[:count])
    ]
    return Hits(
        hits=tuple(found), query="image", studies=15, excluded=3, excluded_why={"same person": 2, "near duplicate": 1}
    )


def asked_of(reader: ShardReader, **changes: Any) -> Asked:
    return replace(Asked.of_study(reader, reader.keys()[-1]), present=("edema", "nodule"), **changes)


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a model had been asked: the n-th case's map rises to n / 10 on the right, the query's to minus that."""

    def made(asked: Asked, hits: Sequence[Hit], reader: ShardReader, *, engine: Any = None) -> tuple[Why, ...]:
        placement = Placement(original=(16, 16), model=(16, 16), matrix=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)))

        def ramp(highest: float) -> SimilarityMap:
            return SimilarityMap(
                values=np.tile(np.linspace(0, highest, 4, dtype=np.float32), (4, 1)), placement=placement
            )

        return tuple(
            Why(
                key=hit.key,
                overlap=overlap(asked.present, hit.present),
                query_map=ramp(-0.1 * rank) if asked.pixels is not None else None,
                case_map=ramp(0.1 * rank),
                sentence=MatchedSentence(text=f"{HOSTILE} $x_{rank}$", similarity=0.25, made_from_labels=True),
                report=f"IMPRESSION: {HOSTILE}",
            )
            for rank, hit in enumerate(hits, start=1)
        )

    monkeypatch.setattr(sheet, "explain", made)


def page_of(path: Path, *arguments: Any, **options: Any) -> tuple[str, Page]:
    write_sheet(path, *arguments, **options)
    content = path.read_text(encoding="utf-8")
    return content, Page(content)


@pytest.mark.usefixtures("explained")
def test_the_page_loads_and_runs_nothing(reader: ShardReader, tmp_path: Path) -> None:
    content, page = page_of(tmp_path / "a.html", asked_of(reader, text=HOSTILE), hits_of(reader, 3), reader=reader)
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "section", "article", "div", "figure",
               "figcaption", "img", "h1", "h2", "p", "b", "small", "span", "label", "input", "blockquote", "details",
               "summary", "pre"}  # fmt: skip
    assert {tag for tag, _ in page.elements} <= allowed, "no script, no link, no frame, no form"
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.named("img"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not [tag for tag, attributes in page.elements if "style" in attributes], "the policy would not let it count"
    assert HOSTILE in page.text, "shown as it is, as text"
    policy = next(str(meta["content"]) for meta in page.named("meta") if "http-equiv" in meta)
    style = re.search(r"<style>(.*?)</style>", content, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy, "or a browser would show it bare"
    assert "default-src 'none'" in policy
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.usefixtures("explained")
def test_the_page_says_what_was_found_and_why(reader: ShardReader, tmp_path: Path) -> None:
    hits = hits_of(reader, 3, same_image=True)
    asked = asked_of(reader, finding="nodule")
    _, page = page_of(tmp_path / "a.html", asked, hits, reader=reader, remarks=["Filter: view=PA."])
    words = " ".join(page.text.split())
    places = [words.index(f"{rank}. {hit.score:.3f}") for rank, hit in enumerate(hits, start=1)]
    assert places == sorted(places)
    assert all(hit.key in words for hit in hits)
    assert str(asked.key) in words
    for expected in (
        "Score: cosine of image with image. 15 studies searched, 3 left out (same person 2, near duplicate 1).",
        "Maps: where each image fits the words for nodule.",
        "Filter: view=PA.",
        "PA, train, the same image, synthetic",
        "label overlap 0.33: 1 of 3 in common",
        "(cosine 0.25, made from labels)",
        "research use, not a medical device",
    ):
        assert expected in words
    assert sum(attributes.get("class") == "tag shared" for attributes in page.named("span")) == 3, "nodule, thrice"
    # Query and colours, then per case the radiograph and its pair of maps.
    assert len(page.named("img")) == 2 + 3 * 3
    for image in page.named("img"):
        content = base64.b64decode(str(image["src"]).partition(",")[2])
        assert max(Image.open(io.BytesIO(content)).size) in {sheet.SIDE_PX, 160}


@pytest.mark.usefixtures("explained")
def test_no_identifier_but_the_shard_key_is_on_a_sheet(reader: ShardReader, tmp_path: Path) -> None:
    content, page = page_of(tmp_path / "a.html", asked_of(reader), hits_of(reader, 2), reader=reader)
    for secret in ("STUDY-ID", "PERSON-ID", "SOURCE-NAME", "87"):
        assert secret not in page.text
    for secret in ("STUDY-ID", "PERSON-ID", "SOURCE-NAME"):
        assert secret not in content
    write_sheet(tmp_path / "a.png", asked_of(reader), hits_of(reader, 2), reader=reader)
    assert set(Image.open(tmp_path / "a.png").info) <= {"dpi"}, "no program, no date, no text"


@pytest.mark.usefixtures("explained")
def test_words_alone_have_a_map_per_case_and_no_picture(reader: ShardReader, tmp_path: Path) -> None:
    _, page = page_of(tmp_path / "a.html", Asked(text="There is a mass."), hits_of(reader, 2), reader=reader)
    assert len(page.named("img")) == 1 + 2 * 2
    assert "Maps: where each case fits the words." in page.text
    assert "label overlap" not in page.text
    assert sheet.UNLABELLED not in page.text


def test_without_a_model_the_sheet_says_what_it_lacks(reader: ShardReader, tmp_path: Path) -> None:
    asked = replace(asked_of(reader), present=None)
    _, page = page_of(tmp_path / "a.html", asked, hits_of(reader, 2), reader=reader)
    assert "No maps and no matched sentences" in page.text
    assert sheet.UNLABELLED in page.text
    assert not page.named("input"), "nothing to switch"
    assert len(page.named("img")) == 1 + 2
    assert "Words of study" in page.text, "the reports are there all the same"


@pytest.mark.usefixtures("explained")
def test_the_picture_has_a_row_per_five(reader: ShardReader, tmp_path: Path) -> None:
    sizes = []
    for count in (0, 1, 4, 5):
        write_sheet(tmp_path / "a.png", asked_of(reader), hits_of(reader, count), reader=reader)
        sizes.append(Image.open(tmp_path / "a.png").size)
    (_, none), (narrow, one), (wide, four), (widest, five) = sizes
    assert none <= one == four < five, "four cases and the query fill a row"
    assert narrow < wide == widest
    with_maps = one
    write_sheet(tmp_path / "a.png", Asked(text="mass"), hits_of(reader, 1), reader=reader)
    assert Image.open(tmp_path / "a.png").size[1] == with_maps


@pytest.mark.usefixtures("explained")
def test_colours_mean_the_same_everywhere(reader: ShardReader) -> None:
    made = gather(asked_of(reader), hits_of(reader, 4), reader=reader)
    every = np.concatenate(
        [np.tile(np.linspace(0, sign * rank / 10, 4), 4) for rank in (1, 2, 3, 4) for sign in (1, -1)]
    )
    assert made.scale == pytest.approx(tuple(np.percentile(every, (1.0, 99.5))), abs=1e-6)
    assert made.query is not None
    for case in made.cases:
        size = case.plain.shape[:2]
        assert case.why.case_map is not None
        assert case.why.query_map is not None
        assert (case.veiled == veil(case.plain, case.why.case_map.resized(*size), made.scale)).all()
        assert (case.query_veiled == veil(made.query, case.why.query_map.resized(*size), made.scale)).all()


def test_a_veil_is_thin_where_the_cosine_is_low_and_absent_where_nobody_looked() -> None:
    picture = np.full((10, 40, 3), 90, dtype=np.uint8)
    values = np.tile(np.linspace(-0.2, 0.8, 40), (10, 1))
    values[:3] = np.nan
    drawn = veil(picture, values, (0.0, 0.6)).astype(int)
    assert (drawn[:3] == 90).all()
    assert (drawn[3:, :8] == 90).all(), "at the low end and below it"
    assert (drawn[3:, -8:] == drawn[3, -1]).all(), "at the high end and above it"
    away = np.abs(drawn[5] - 90).sum(axis=1)
    assert away[-1] > away[20] > away[9]


def test_the_frame_lies_around_the_part_that_was_asked_about() -> None:
    pixels = np.zeros((200, 100), dtype=np.uint8)
    drawn = radiograph(pixels, box=(25.0, 50.0, 75.0, 150.0))
    assert drawn.shape == (sheet.SIDE_PX, sheet.SIDE_PX // 2, 3)
    rows, columns = np.nonzero(drawn[..., 0] > 200)
    scale = sheet.SIDE_PX / 200
    np.testing.assert_allclose(
        (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), np.array((25, 50, 75, 150)) * scale, atol=2
    )
    assert radiograph(pixels).max() == 0


@pytest.mark.usefixtures("explained")
def test_a_long_list_is_cut_and_the_sheet_says_so(
    reader: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "MOST_CASES", 2)
    _, page = page_of(tmp_path / "a.html", asked_of(reader), hits_of(reader, 3), reader=reader)
    assert len(page.named("article")) == 2
    assert "the first 2 of 3 are shown" in page.text


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_nothing_found_and_bytes_that_are_no_characters(reader: ShardReader, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    write_sheet(path, Asked(text="\udcff mass \u75c5"), hits_of(reader, 0), reader=reader)
    assert path.stat().st_size > 1000
    if suffix == "html":
        assert "No case was found." in path.read_text(encoding="utf-8")


def test_bad_targets_are_refused_and_leave_nothing(reader: ShardReader, tmp_path: Path) -> None:
    (tmp_path / "taken.html").mkdir()
    for path, reason in (
        (tmp_path / "a.pdf", "a .png or a .html file"),
        (tmp_path / "missing" / "a.png", "no such folder"),
        (tmp_path / "taken.html", "cannot write the sheet"),
    ):
        with pytest.raises(DataError, match=reason) as refused:
            write_sheet(path, asked_of(reader), hits_of(reader, 1), reader=reader)
        assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]


def test_the_head_says_how_it_was_searched(reader: ShardReader) -> None:
    hits = replace(
        hits_of(reader, 1),
        query="image and text",
        with_what="region",
        weights=(0.25, 0.75),
        excluded=0,
        excluded_why={},
        filtered=4,
    )
    assert gather(asked_of(reader), hits, reader=reader).lines[0] == (
        "Score: cosine of image and text with region (weights 0.25, 0.75). 15 studies searched, 0 left out, "
        "4 not let through by the filter."
    )
