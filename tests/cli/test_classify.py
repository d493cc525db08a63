import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference.conftest import save_tiny
from vlp.cli.classify import classify
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.inference.engine import load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", "similarity_attention")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, size=(70, 60)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    return tmp_path / "chest.png"


def test_a_table_for_people(checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify(checkpoint, image, ["nodule", "Effusion"], why=True)
    shown = capsys.readouterr().out
    for words in (
        "pleural effusion",
        "nodule",
        "uncalibrated",
        "not a medical device",
        "not reviewed by a radiologist",
    ):
        assert words in " ".join(shown.split())
    assert "%" not in shown
    assert shown.count("named directly") >= 2


def test_json_for_programs(checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classify(checkpoint, image, ["nodule"], view=[image], json_=True)
    content = json.loads(capsys.readouterr().out)
    expected = load(checkpoint).classify([image, image], findings=["nodule"])
    assert content == json.loads(json.dumps(expected.to_json()))
    assert content["num_images"] == 2


def test_the_table_is_sorted_by_score(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    classify(checkpoint, image)
    shown = capsys.readouterr().out
    places = [shown.index(f" {evidence.finding} ") for evidence in load(checkpoint).classify(image).ranked()]
    assert places == sorted(places)
    assert len(places) == 19


def test_a_descriptor_file(checkpoint: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {
        "version": "1", "license": "CC0", "reviewed_by": "somebody", "templates": {},
        "findings": {"tortuous aorta": {"named": {"positive": "The aorta is bent.", "negative": "The aorta is not."}}},
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    classify(checkpoint, image, descriptors=tmp_path / "own.yaml", json_=True)
    content = json.loads(capsys.readouterr().out)
    assert [entry["finding"] for entry in content["findings"]] == ["tortuous aorta"]
    assert "somebody" in content["vocabulary"]
    with pytest.raises(ConfigError, match="cannot read"):
        classify(checkpoint, image, descriptors=tmp_path / "none.yaml")


@pytest.mark.parametrize("content", [b"", b"These are words.", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40])
def test_a_file_that_is_no_image_is_told_before_the_model_is_loaded(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chest.png").write_bytes(content)
    with pytest.raises(DataError, match=r"chest\.png"):
        classify(tmp_path / "no-such-checkpoint", tmp_path / "chest.png")


def test_a_truncated_image(checkpoint: Path, image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-2000])
    with pytest.raises(DataError):
        classify(checkpoint, image)


def test_an_unknown_finding(checkpoint: Path, image: Path) -> None:
    with pytest.raises(DataError, match="unknown finding"):
        classify(checkpoint, image, ["happiness"])


def test_no_checkpoint_a_damaged_one_and_one_of_another_design(image: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        classify(tmp_path / "nowhere", image)
    folder = save_tiny(tmp_path / "model", "cosine")
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("dim: 24", "dim: 32"))
    with pytest.raises(CheckpointError, match="another design"):
        classify(folder, image)
    (folder / "config.yaml").write_text(text)
    (folder / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes()[:-8])
    with pytest.raises(CheckpointError) as caught:
        classify(folder, image)
    assert "\n" not in str(caught.value)
