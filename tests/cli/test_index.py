import json
from pathlib import Path

import pytest

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import make_study
from vlp.cli.embed import embed
from vlp.cli.index import add, build, compact, from_store, info, merge, remove
from vlp.data.writer import ShardWriter
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.retrieval import open_index


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


def test_build_says_what_it_made(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(folder / "model", folder / "shards", tmp_path / "index", json_=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["studies"], facts["images"], facts["persons"], facts["dim"]) == (12, 12, 4, 24)


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_a_store_becomes_an_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed(folder / "model", folder / "shards", tmp_path / "store", kinds="global,view,finding", findings="nodule")
    capsys.readouterr()
    from_store(tmp_path / "store", tmp_path / "index", split=["train"], json_=True)
    facts = said(capsys)
    assert (facts["studies"], facts["splits"]) == (9, {"train": 9})
    assert [one["of"] for one in facts["searchers"]] == ["global", "view", "finding: nodule"]


def test_cases_come_and_go(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = tmp_path / "index"
    build(folder / "model", folder / "shards", index, split=["train"])
    capsys.readouterr()
    add(index, folder / "model", folder / "shards", json_=True)
    facts = said(capsys)
    assert (facts["studies"], facts["added"]) == (12, "3 studies")
    remove(index, person="person-1", json_=True)
    assert (facts := said(capsys))["studies"] == 9
    assert "vlp index compact" in facts["still on the disk"]
    add(index, folder / "model", folder / "shards", update=True, json_=True)
    assert said(capsys)["studies"] == 12
    compact(index, kind="hnsw", json_=True)
    facts = said(capsys)
    assert [one["parameters"]["kind"] for one in facts["searchers"]] == ["hnsw"]
    assert facts["journal"][-1]["what"] == "compact"
    info(index)
    shown = capsys.readouterr().out
    assert "12 vectors of view, hnsw" in shown
    assert "compact, complete" in shown


def test_two_indexes_become_one(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(folder / "model", folder / "shards", tmp_path / "test", split=["test"])
    capsys.readouterr()
    merge([folder / "index", tmp_path / "test"], out=tmp_path / "both", json_=True)
    assert said(capsys)["splits"] == {"train": 9, "test": 3}
    assert len(open_index(tmp_path / "both")) == 12


def test_bad_input(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder of shards"):
        build(folder / "model", tmp_path / "nowhere", tmp_path / "index")
    with pytest.raises(ConfigError, match="kind"):
        build(folder / "model", folder / "shards", tmp_path / "index", kind="quick")
    with pytest.raises(ConfigError, match="recall"):
        build(folder / "model", folder / "shards", tmp_path / "index", recall=1.5)
    with pytest.raises(ConfigError, match="exactly one"):
        remove(folder / "index")
    with pytest.raises(DataError, match="no case of this person"):
        remove(folder / "index", person="nobody")
    with pytest.raises(DataError, match="not an index"):
        info(tmp_path / "nowhere")
    other = save_tiny(tmp_path / "other", "similarity_attention", seed=9)
    with pytest.raises(CheckpointError, match="another checkpoint"):
        add(folder / "index", other, folder / "shards")
