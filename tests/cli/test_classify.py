import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from tests.inference.calibrated import made_calibration, made_gate
from tests.inference.conftest import save_tiny
from vlp.cli.classify import classify
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.inference import gate as gates
from vlp.inference.diagnose import Request, diagnose
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
    expected = diagnose(load(checkpoint), [image, image], Request(findings=("nodule",)))
    # Views come from the files, and the clock is never the same.
    assert {**content, "timings_s": {}} == {**json.loads(json.dumps(expected.to_json())), "timings_s": {}}
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


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path) -> Path:
    """A run folder with a gate and a calibration."""
    folder = tmp_path / "run"
    shutil.copytree(checkpoint, folder / "checkpoints" / "final")
    engine = load(folder, device="cpu")
    (folder / "calibration").mkdir()
    (folder / "calibration" / "calibration.json").write_text(made_calibration(engine).to_json())
    gates.save(made_gate(engine), folder / "calibration" / "gate.json")
    return folder


def test_a_calibrated_table(
    run: Path, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    classify(run, image, ["pleural effusion", "fracture"], why=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "probability (calibrated)" in shown
    assert "negative │ 20.0%" in shown
    assert "fracture │ uncalibrated │ -" in shown
    assert "Pleural effusion: negative, probability 20.0 % (calibrated)." in shown


def test_a_refused_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faint = np.random.default_rng(0).integers(90, 95, size=(64, 64)).astype(np.uint8)
    Image.fromarray(faint).save(tmp_path / "flat.png")
    for json_ in (False, True):
        with pytest.raises(typer.Exit) as caught:
            classify(run, tmp_path / "flat.png", ["nodule"], json_=json_, maps=tmp_path / "maps")
        assert caught.value.exit_code == 1
        shown = capsys.readouterr().out
        assert "no_contrast" in shown
        assert "not assessable" in shown.lower()
    classify(run, tmp_path / "flat.png", ["nodule"], no_gate=True)
    assert "no_contrast" not in capsys.readouterr().out


def test_a_calibration_file_of_another_model(run: Path, image: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", "cosine", seed=1)
    with pytest.raises(CheckpointError, match="another model"):
        classify(other, image, ["nodule"], calibration=run / "calibration" / "calibration.json")
    with pytest.raises(DataError, match="cannot read the calibration"):
        classify(run, image, ["nodule"], calibration=tmp_path / "none.json")


def test_pooling_of_the_calibration_needs_one(
    run: Path, checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classify(run, image, ["nodule"], pooling="calibrated", json_=True)
    assert json.loads(capsys.readouterr().out)["findings"][0]["probability"] is not None
    with pytest.raises(DataError, match="no calibration"):
        classify(checkpoint, image, ["nodule"], pooling="calibrated")


@pytest.mark.parametrize("name", ["radzero", "VLP"])
def test_protocols(checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    classify(checkpoint, image, ["nodule"], protocol=name, why=True)
    assert "nodule" in capsys.readouterr().out
    classify(checkpoint, image, ["nodule"], protocol=name, json_=True)
    asked = json.loads(capsys.readouterr().out)
    assert asked["prompts"] == ("radzero" if name == "radzero" else "both")
    with pytest.raises(ConfigError, match="did you mean radzero"):
        classify(checkpoint, image, ["nodule"], protocol="radzer")


def test_where_maps_and_an_answer_in_a_file(
    checkpoint: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer, pictures = tmp_path / "answer.json", tmp_path / "maps"
    classify(checkpoint, image, ["pleural effusion", "nodule"], where=True, maps=pictures, output=answer)
    shown = capsys.readouterr().out
    content = json.loads(answer.read_text())
    place = content["findings"][0]["descriptors"][0]["where"][0]
    assert f"({', '.join(f'{value:.0f}' for value in place['box'])})" in shown
    assert sorted(path.name for path in pictures.iterdir()) == ["nodule.png", "pleural-effusion.png"]
    assert Image.open(pictures / "nodule.png").size[0] > 500
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []
    with pytest.raises(DataError, match="cannot write the answer"):
        classify(checkpoint, image, ["nodule"], output=tmp_path / "nowhere" / "answer.json")
