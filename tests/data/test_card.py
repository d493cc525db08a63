from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlp.data import card as module
from vlp.data.card import markdown, save
from vlp.data.reader import open_shards
from vlp.data.stats import DataCard, make_card
from vlp.errors import DataError


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> DataCard:
    from tests.data.conftest import make_study
    from vlp.data.writer import ShardWriter

    folder = tmp_path_factory.mktemp("card") / "s"
    with ShardWriter(folder) as writer:
        for number in range(5):
            writer.write(make_study(number, split="train" if number < 3 else "test"))
    return make_card(open_shards(folder))


def _tables(text: str) -> dict[str, list[list[str]]]:
    tables = {}
    for chapter in text.split("\n## ")[1:]:
        title, *lines = chapter.strip().splitlines()
        tables[title] = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")
        ]
    return tables


def test_the_text_holds_the_figures(card):
    tables = _tables(markdown(card))
    assert tables["Splits"][2:] == [
        ["train", "3", "3", "3", "3", "6", "0"],
        ["test", "2", "2", "2", "2", "4", "0"],
    ]
    assert tables["Labels in train (studies)"][2:] == [["edema", "3", "0", "0"], ["pneumothorax", "0", "0", "3"]]
    assert tables["Sources (studies)"][2:] == [["made here", "5"]]
    assert all(len({len(row) for row in table}) == 1 for table in tables.values() if table)
    assert "Research use, not a medical device." in markdown(card)


def test_names_from_an_archive_cannot_break_the_text(card):
    odd = replace(card, sources={"a|b\nc <script>": 1234567})
    assert r"| a\|b c &lt;script> | 1,234,567 |" in markdown(odd)


def test_the_picture_is_one_page_of_ink(card, tmp_path):
    save(replace(card, sources={"a $100$ source": 3}), tmp_path / "new" / "card.png")
    with Image.open(tmp_path / "new" / "card.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.shape[1] > pixels.shape[0] > 1000
    # Every one of the nine panels has something in it.
    for rows in np.array_split(pixels, 3):
        for panel in np.array_split(rows, 3, axis=1):
            assert (panel < 128).mean() > 0.002
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["card.png"]


def test_a_card_of_next_to_nothing_is_drawn_all_the_same(card, tmp_path):
    names = ("views", "ages", "sexes", "findings", "said", "locations", "regions", "languages")
    empty = {name: {} for name in names}
    bare = replace(card, **empty, pairs=(), words=None, report_words=None, same_reports=None)
    save(bare, tmp_path / "card.png")
    save(bare, tmp_path / "card.md")
    assert "## Sentences by finding\n\nNone." in (tmp_path / "card.md").read_text()


def test_other_endings_and_places_that_cannot_be_written(card, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"a \.png or a \.md file"):
        save(card, tmp_path / "card.pdf")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        save(card, tmp_path / "file" / "card.md")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    for name in ("card.png", "card.md"):
        with pytest.raises(DataError, match="No space left"):
            save(card, tmp_path / name)
    assert not Path(tmp_path / "card.png").exists()
