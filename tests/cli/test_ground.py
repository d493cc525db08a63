import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference.conftest import save_tiny
from vlp.cli.ground import ground
from vlp.errors import CheckpointError, DataError

TEXT = "There is pleural effusion."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", "similarity_attention")


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, size=(70, 60)).astype(np.uint8)
    (tmp_path / "images").mkdir()
    (tmp_path / "here").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "chest.1.png")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "images" / "chest.1.png"


def test_a_table_and_a_picture_in_the_current_folder(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ground(checkpoint, image, [TEXT])
    shown = " ".join(capsys.readouterr().out.split())
    assert "not a medical device" in shown
    assert "Otsu" in shown
    assert [path.name for path in Path().iterdir()] == ["chest.1.ground.png"]
    assert [path.name for path in image.parent.iterdir()] == ["chest.1.png"]
    with Image.open("chest.1.ground.png") as picture:
        assert picture.width > picture.height


def test_json_maps_and_several_texts(checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [TEXT, "There is a nodule."]
    ground(
        checkpoint,
        image,
        texts,
        output=Path("a.png"),
        save_map=Path("a.npy"),
        threshold=-1.0,
        combined=True,
        json_=True,
    )
    content = json.loads(capsys.readouterr().out)
    assert [answer["text"] for answer in content["answers"]] == texts
    assert content["answers"][0]["box"] == [0.0, 0.0, 60.0, 70.0], "everything is above a cosine of -1"
    assert content["answers"][0]["threshold_source"] == "given"
    assert np.load("a.npy", allow_pickle=False).shape == (2, 70, 60)
    assert sorted(path.name for path in Path().iterdir()) == ["a.npy", "a.png"]


@pytest.mark.parametrize("text", ["", "  ", "!!"])
def test_an_empty_text_leaves_no_picture(checkpoint: Path, image: Path, text: str) -> None:
    with pytest.raises(DataError, match="empty"):
        ground(checkpoint, image, [TEXT, text])
    assert not list(Path().iterdir())


def test_a_text_over_the_limit(checkpoint: Path, image: Path) -> None:
    with pytest.raises(DataError, match="at most 96"):
        ground(checkpoint, image, ["effusion " * 40])


def test_bad_files(checkpoint: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match="empty"):
        ground(checkpoint, tmp_path / "empty.png", [TEXT])
    with pytest.raises(CheckpointError):
        ground(tmp_path / "nowhere", image, [TEXT])
    with pytest.raises(DataError, match="cannot write"):
        ground(checkpoint, image, [TEXT], output=Path("no-folder/a.png"))
    with pytest.raises(DataError, match="threshold"):
        ground(checkpoint, image, [TEXT], threshold=7.0)
    assert not list(Path().iterdir())
