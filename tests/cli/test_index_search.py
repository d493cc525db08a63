import json
from pathlib import Path

import cv2
import pytest

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import make_study
from vlp.cli.embed import embed
from vlp.cli.index import build, from_store
from vlp.cli.index_search import search
from vlp.data import open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import CheckpointError, ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, shards, and an index of their training split."""
    folder = tmp_path_factory.mktemp("index")
    save_tiny(folder / "model", "similarity_attention")
    with ShardWriter(folder / "shards", image_format="png") as writer:
        for number in range(12):
            writer.write(make_study(number))
    build(folder / "model", folder / "shards", folder / "index", split=["train"])
    return folder


def found(capsys: pytest.CaptureFixture[str], *arguments: Path, **options) -> dict:
    search(*arguments, json_=True, **options)
    return json.loads(capsys.readouterr().out)


def test_search_by_image_by_text_and_by_key(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader = open_shards(folder / "shards")
    key = reader.keys("train")[1]
    person = reader.study(key).person.id
    file = tmp_path / "chest.png"
    cv2.imwrite(str(file), reader.image(key))
    options = {"checkpoint": folder / "model", "image": file, "k": 3}
    by_image = found(capsys, folder / "index", keep_duplicates=True, **options)
    assert by_image["hits"][0]["key"] == key
    assert [hit["same_image"] for hit in by_image["hits"]] == [True, False, False]
    assert by_image["score"] == "cosine of image and image"
    without = found(capsys, folder / "index", keep_duplicates=True, exclude_person=person, **options)
    assert found(capsys, folder / "index", **options)["hits"] == without["hits"], "its person is left out unasked"
    by_key = found(capsys, folder / "index", key=key, k=3)
    assert [hit["key"] for hit in by_key["hits"]] == [hit["key"] for hit in without["hits"]]
    assert person not in {hit["person"] for hit in by_key["hits"]}
    assert by_key["excluded_why"] == {"same study": 1, "same person": 2}
    by_text = found(capsys, folder / "index", checkpoint=folder / "model", text="There is a nodule.", k=50)
    assert by_text["score"] == "cosine of text and image"
    assert len(by_text["hits"]) == 9


def test_a_study_of_other_shards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = open_shards(folder / "shards").keys("test")[0]
    options = {"checkpoint": folder / "model", "shards": folder / "shards", "key": key, "k": 2}
    assert len(found(capsys, folder / "index", **options)["hits"]) == 2


def test_a_table_for_people(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    search(folder / "index", checkpoint=folder / "model", text="There is a nodule.", k=9)
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("Case 1.", "(no report)", "cosine of text and image", "9 studies searched", "not a medical device"):
        assert words in shown
    assert "Words of study" not in shown, "the impression, where there is one"


def test_the_table_says_that_the_query_met_itself(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = open_shards(folder / "shards")
    key = reader.keys("train")[0]
    person = reader.study(key).person.id
    file = tmp_path / "chest.png"
    cv2.imwrite(str(file), reader.image(key))

    def shown(**options) -> str:
        search(folder / "index", checkpoint=folder / "model", image=file, k=3, **options)
        return " ".join(capsys.readouterr().out.split())

    itself = shown(keep_duplicates=True)
    assert itself.count("(the same image)") == 1
    assert f"--exclude-person {person}" in itself
    assert "0 left out" in itself
    without = shown(exclude_person=person)
    assert "same image" not in without
    assert "3 left out (1 near duplicate, 2 same person)" in without
    assert "its person is left out" in without
    assert "is the pseudonym right?" not in without
    assert "is the pseudonym right?" in shown(exclude_person="nobody", keep_duplicates=True)


def test_what_to_search_by_must_be_said_once(folder: Path) -> None:
    for options in ({}, {"image": folder / "a.png", "key": "b"}):
        with pytest.raises(ConfigError, match="exactly one"):
            search(folder / "index", checkpoint=folder / "model", **options)
    with pytest.raises(ConfigError, match="--checkpoint"):
        search(folder / "index", text="There is a nodule.")
    with pytest.raises(ConfigError, match="--box"):
        search(folder / "index", checkpoint=folder / "model", text="There is a nodule.", box="0,0,4,4")
    with pytest.raises(ConfigError, match="x0,y0,x1,y1"):
        search(folder / "index", checkpoint=folder / "model", key="b", box="0,0,4")
    with pytest.raises(ConfigError, match="--shards"):
        search(folder / "index", key="b", sheet=folder / "sheet.png")


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "chest.png").write_bytes(b"These are words.")
    with pytest.raises(DataError, match=r"chest\.png"):
        search(folder / "index", checkpoint=folder / "model", image=tmp_path / "chest.png")
    with pytest.raises(DataError, match="a text is empty"):
        search(folder / "index", checkpoint=folder / "model", text=" ")
    with pytest.raises(DataError, match="not an index"):
        search(tmp_path / "nowhere", key="x")
    with pytest.raises(CheckpointError):
        search(folder / "index", checkpoint=tmp_path / "nowhere", text="a nodule")
    with pytest.raises(DataError, match="not a folder of shards"):
        build(folder / "model", tmp_path / "nowhere", tmp_path / "index")
    with pytest.raises(DataError, match="--shards"):
        search(folder / "index", key="no-such-key")


def test_another_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", "similarity_attention", seed=9)
    with pytest.raises(CheckpointError, match="another checkpoint"):
        search(folder / "index", checkpoint=other, text="There is a nodule.")


def test_filters_say_what_was_not_searched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = open_shards(folder / "shards").keys("train")[0]
    hits = found(capsys, folder / "index", key=key, k=50, filter_=["finding=nodule", "age=..51"])
    assert hits["hits"]
    assert all(hit["present"] == ["nodule"] and hit["age"] <= 51 for hit in hits["hits"])
    assert hits["studies"] == len(hits["hits"])
    assert hits["studies"] + hits["excluded"] + hits["filtered"] == 9
    search(folder / "index", key=key, filter_=["sex=F"])
    assert "Only sex=F: " in capsys.readouterr().out
    with pytest.raises(DataError, match="sxe: nothing of this name"):
        search(folder / "index", key=key, filter_=["sxe=F"])


def test_a_part_of_an_image_and_a_sheet_of_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"checkpoint": folder / "model", "shards": folder / "shards", "k": 3}
    key = open_shards(folder / "shards").keys("train")[0]
    hits = found(capsys, folder / "index", key=key, box="0,0,8,8", sheet=tmp_path / "sheet.html", **options)
    assert hits["score"] == "cosine of region and image"
    assert "same person" in (tmp_path / "sheet.html").read_text()
    mixed = found(capsys, folder / "index", key=key, text="There is a nodule.", text_weight=0.25, **options)
    assert mixed["weights"] == [0.75, 0.25]


def test_neighbours_vote_and_are_quoted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = open_shards(folder / "shards").keys("train")[0]
    hits = found(capsys, folder / "index", key=key, k=2, vote=True, draft=True)
    assert len(hits["hits"]) == 2, "more neighbours vote than are shown"
    (nodule,) = (one for one in hits["votes"] if one["finding"] == "nodule")
    assert len(nodule["present"]) == 3
    assert hits["draft"]["neighbours"] == 6
    search(folder / "index", key=key, vote=True, draft=True)
    assert "no probability of disease" in capsys.readouterr().out


def test_a_similar_finding_by_any_of_its_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(folder / "model", folder / "shards", tmp_path / "store", kinds="view,finding", findings="pleural effusion")
    from_store(tmp_path / "store", tmp_path / "index")
    capsys.readouterr()
    key = open_shards(folder / "shards").keys("train")[0]
    options = {"checkpoint": folder / "model", "shards": folder / "shards", "key": key, "k": 2}
    hits = found(capsys, tmp_path / "index", like_finding="effusion", sheet=tmp_path / "sheet.png", **options)
    assert hits["score"] == "cosine of finding and what is seen of pleural effusion"
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
    with pytest.raises(DataError, match="no finding is called"):
        search(tmp_path / "index", like_finding="efusionn", **options)
