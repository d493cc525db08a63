import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import make_study
from vlp.cli.embed import embed
from vlp.data.writer import ShardWriter
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.retrieval.store import VectorStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and shards."""
    folder = tmp_path_factory.mktemp("embed")
    save_tiny(folder / "model", "similarity_attention")
    with ShardWriter(folder / "shards", samples_per_shard=3, image_format="png") as writer:
        for number in range(12):
            writer.write(make_study(number))
    return folder


def said(capsys: pytest.CaptureFixture[str], folder: Path, out: Path, **options: object) -> dict:
    embed(folder / "model", str(folder / "shards"), out, json_=True, **options)
    return json.loads(capsys.readouterr().out)


def test_a_store_in_two_parts_by_two_calls(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"kinds": "view, finding", "findings": "PTX,mass", "split": ["train"]}
    first = said(capsys, folder, tmp_path / "out", part="2/2", **options)
    assert (first["complete"], first["parts"], first["parts_missing"]) == (False, 2, 1)
    with pytest.raises(DataError, match="1 of 3 parts are missing"):
        said(capsys, folder, tmp_path / "out", merge=True)
    second = said(capsys, folder, tmp_path / "out", part="1/2", **options)
    assert second["complete"]
    assert second["findings"] == ["mass", "pneumothorax"]
    assert second["vectors"] == {"view": 9, "finding": 18}
    assert said(capsys, folder, tmp_path / "out", merge=True) == second
    store = VectorStore.open(tmp_path / "out")
    assert len(store) == 27
    assert second["bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "out" / "parts").iterdir() if file.suffix in (".npy", ".parquet")
    )


def test_words_of_a_command_line(folder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(embed)
    words = [str(folder / "model"), str(folder / "shards"), str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--kinds", "global", "--split", "test", "--part", "1/1", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    for piece in ("3 global", "complete", "True", "findings", "none"):
        assert piece in shown
    assert VectorStore.open(tmp_path / "out").facts.plan.splits == ("test",)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"part": "3/2"}, ConfigError, "--part 3/2: there is no part 3 of 2"),
        ({"part": "third"}, ConfigError, "--part third: a part is written like 3/16"),
        ({"part": "1/2", "merge": True}, ConfigError, "leave --part away"),
        ({"merge": True}, DataError, "run vlp embed first"),
        ({"kinds": "views"}, DataError, "no kind 'views'"),
        ({"kinds": "view", "findings": "mass"}, ConfigError, "add the kind finding"),
        ({"kinds": "finding", "findings": "unicorn"}, DataError, "no finding 'unicorn'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    folder: Path, tmp_path: Path, options: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says) as told:
        embed(folder / "model", str(folder / "shards"), tmp_path / "out", **options)
    assert len(str(told.value).splitlines()) == 1


def test_a_store_of_another_model_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, folder, tmp_path / "out", split=["test"])
    save_tiny(tmp_path / "other", "similarity_attention", seed=3)
    with pytest.raises(CheckpointError, match="checkpoint differ"):
        embed(tmp_path / "other", str(folder / "shards"), tmp_path / "out", split=["test"])
