import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference.calibrated import made_calibration
from tests.inference.conftest import save_tiny
from vlp.cli.ground import ground
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.heads.decoders import LinearConfig
from vlp.heads.encoder import Encoder
from vlp.heads.head import HeadCard, make_network, save_head, weights_of
from vlp.inference.engine import Engine, load

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


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Engine:
    return load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def head(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of random weights for effusions and lungs; its threshold leaves half of an image."""
    decoder, classes = LinearConfig(), ("pleural effusion", "lungs")
    network = make_network(engine, decoder, conditioning="class", classes=len(classes))
    card = HeadCard(
        encoder=engine.fingerprint, decoder=decoder, conditioning="class", thaw=0, classes=classes,
        prompts=("There is pleural effusion.", "There are lungs."), thresholds={"pleural effusion": 0.0},
        threshold=0.0, trained={}, weights_sha256="",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("run")
    save_head(folder / "head", card, weights_of(network, Encoder(engine, thaw=0)))
    return folder


def asked(capsys: pytest.CaptureFixture[str], *arguments: object, **options: object) -> dict:
    ground(*arguments, json_=True, output=Path("a.png"), **options)
    return json.loads(capsys.readouterr().out)


def test_everything_about_an_answer_is_in_the_json(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = asked(capsys, checkpoint, image, ["There is no knee fracture."], threshold=-1.0)["answers"][0]
    assert answer["contours"] == [[[0.0, 0.0], [60.0, 0.0], [60.0, 70.0], [0.0, 70.0]]]
    assert answer["boxes"] == [[0.0, 0.0, 60.0, 70.0]]
    assert answer["where"]["area_share"] == 1.0
    assert answer["where"]["measured_by"] == "image, for want of a lung field"
    assert answer["negated"] is True
    assert {"negated", "impossible_anatomy"} <= {note["code"] for note in answer["notes"]}


def test_remarks_on_a_text_stand_below_the_table(
    checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ground(checkpoint, image, ["There is no nodule."])
    shown = " ".join(capsys.readouterr().out.split())
    assert "read as a denial" in shown
    assert "for want of a lung field" in shown


@pytest.mark.parametrize("resolution", ["windows", "both"])
def test_windows(checkpoint: Path, image: Path, capsys: pytest.CaptureFixture[str], resolution) -> None:
    answers = asked(capsys, checkpoint, image, [TEXT], resolution=resolution, window=0.6, whole="max")["answers"]
    assert answers[0]["resolution"] == resolution
    with pytest.raises(DataError, match="window"):
        ground(checkpoint, image, [TEXT], resolution=resolution, window=-2.0)


def test_a_calibration_is_named_or_lies_beside_the_checkpoint(
    engine: Engine, checkpoint: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["There is a nodule.", TEXT]
    fitted = made_calibration(engine)
    file = tmp_path / "fitted.json"
    file.write_text(fitted.to_json(), encoding="utf-8")
    expected = [(0.1, "calibration"), (pytest.approx(0.0, abs=1.0), "otsu")]
    named = asked(capsys, checkpoint, image, texts, calibration=file)["answers"]
    assert [(answer["threshold"], answer["threshold_source"]) for answer in named] == expected
    beside = checkpoint / "calibration" / "calibration.json"
    beside.parent.mkdir()
    try:
        beside.write_text(fitted.to_json(), encoding="utf-8")
        found = asked(capsys, checkpoint, image, texts)["answers"]
        assert [answer["threshold_source"] for answer in found] == ["calibration", "otsu"]
        other = made_calibration(engine, model_fingerprint="another")
        beside.write_text(other.to_json(), encoding="utf-8")
        left_out = asked(capsys, checkpoint, image, texts)["answers"]
        assert [answer["threshold_source"] for answer in left_out] == ["otsu", "otsu"]
        with pytest.raises(CheckpointError):
            ground(checkpoint, image, texts, calibration=beside)
    finally:
        beside.unlink()
        beside.parent.rmdir()


def test_a_head_gives_masks_and_the_lungs(
    checkpoint: Path, head: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = asked(capsys, checkpoint, image, [TEXT], head=head)["answers"][0]
    assert (answer["similarity"], answer["threshold_source"]) == ("segmentation score", "head")
    ground(checkpoint, image, [TEXT], head=head)
    assert "stored with the head" in " ".join(capsys.readouterr().out.split())
    ground(checkpoint, image, [TEXT], lungs=head)
    assert "peak cosine" in capsys.readouterr().out
    with pytest.raises(DataError, match="no class"):
        ground(checkpoint, image, ["There is a nodule."], head=head)
    with pytest.raises(ConfigError, match="resolution"):
        ground(checkpoint, image, [TEXT], head=head, resolution="both")
    with pytest.raises(CheckpointError):
        ground(checkpoint, image, [TEXT], lungs=Path("nowhere"))
