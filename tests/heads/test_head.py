import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.heads.conftest import CLASSES
from tests.inference.conftest import save_tiny
from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError
from vlp.heads import load_head
from vlp.heads.decoders import PyramidConfig
from vlp.heads.encoder import Encoder
from vlp.heads.head import HeadCard, make_network, save_head, weights_of
from vlp.inference.engine import Engine, load

PROMPTS = ("There is cardiomegaly.", "There is a mass.", "There is pleural effusion.")


def write(folder: Path, engine: Engine, *, conditioning: Any = "class", thaw: Any = 0, seed: int = 0) -> Path:
    """A head of random weights."""
    torch.manual_seed(seed)
    decoder = PyramidConfig(channels=8, scale=2)
    encoder = Encoder(engine, thaw=thaw)
    network = make_network(engine, decoder, conditioning=conditioning, classes=len(CLASSES))
    with torch.no_grad():
        for value in (*network.parameters(), *encoder.learned().values()):
            value.add_(0.1 * torch.randn_like(value))
    card = HeadCard(
        encoder=engine.fingerprint,
        decoder=decoder,
        conditioning=conditioning,
        thaw=thaw,
        classes=CLASSES,
        prompts=PROMPTS,
        thresholds={"cardiomegaly": 0.2, "mass": 0.3, "pleural effusion": 0.4},
        threshold=0.35,
        trained={"masks": 3},
        weights_sha256="",
    )
    save_head(folder / "head", card, weights_of(network, encoder))
    return folder


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [rng.integers(0, 256, size=shape).astype(np.uint8) for shape in ((64, 64), (90, 50), (33, 70))]


def test_maps_are_probabilities_in_the_pixels_of_each_image(engine: Engine, tmp_path: Path) -> None:
    head = load_head(write(tmp_path, engine), engine)
    images = pictures()
    answers = head.segment(images)
    assert [set(answer) for answer in answers] == [set(CLASSES)] * 3
    for image, answer in zip(images, answers, strict=True):
        for values in answer.values():
            assert values.shape == image.shape
            assert values.dtype == np.float32
            assert 0.0 <= np.nanmin(values) <= np.nanmax(values) <= 1.0
    maps, thresholds = head.maps(images[1])
    assert thresholds == {"cardiomegaly": 0.2, "mass": 0.3, "pleural effusion": 0.4}
    for name in CLASSES:  # one image or several: the same
        assert np.allclose(maps[name], answers[1][name], atol=1e-5)


def test_some_classes_come_as_they_were_asked_for_by_name_or_sentence(engine: Engine, tmp_path: Path) -> None:
    head = load_head(write(tmp_path, engine), engine)
    image = pictures()[0]
    everything = head.segment([image])[0]
    some = head.segment([image], classes=["pleural effusion"], texts=["There is a mass."])[0]
    assert list(some) == ["pleural effusion", "There is a mass."]
    assert np.array_equal(some["pleural effusion"], everything["pleural effusion"])
    assert np.array_equal(some["There is a mass."], everything["mass"])
    assert head.threshold("There is a mass.") == 0.3
    with pytest.raises(DataError, match=r"no class 'There is edema\.'; it has cardiomegaly, mass, pleural"):
        head.segment([image], texts=["There is edema."])
    with pytest.raises(DataError, match="no image"):
        head.segment([])


def test_a_head_by_text_takes_any_sentence(engine: Engine, tmp_path: Path) -> None:
    head = load_head(write(tmp_path, engine, conditioning="text"), engine)
    assert head.any_text
    image = pictures()[0]
    maps, thresholds = head.maps(image, texts=["There is edema.", "mass"])
    assert thresholds == {"There is edema.": 0.35, "mass": 0.3}
    assert not np.allclose(maps["There is edema."], maps["mass"])
    assert np.allclose(
        maps["mass"], head.segment([image], texts=["There is a mass."])[0]["There is a mass."], atol=1e-6
    )


@pytest.mark.parametrize("conditioning", ["class", "text"])
@pytest.mark.parametrize("thaw", [0, 1])
def test_a_head_that_was_saved_is_the_head_that_was_made(
    engine: Engine, tmp_path: Path, conditioning: str, thaw: int
) -> None:
    for seed in (0, 1):
        write(tmp_path / str(seed), engine, conditioning=conditioning, thaw=thaw, seed=seed)
    write(tmp_path / "again", engine, conditioning=conditioning, thaw=thaw, seed=1)
    first, other, again = (
        load_head(tmp_path / name / "head", engine).maps(pictures()[0])[0] for name in ("0", "1", "again")
    )
    assert all(np.array_equal(other[name], again[name]) for name in CLASSES)
    assert not any(np.allclose(first[name], other[name]) for name in CLASSES)


def test_another_encoder_is_refused(engine: Engine, tmp_path: Path) -> None:
    folder = write(tmp_path, engine)
    stranger = load(save_tiny(tmp_path / "other", "similarity_attention", seed=7), device="cpu")
    with pytest.raises(CheckpointError, match="stands on another encoder"):
        load_head(folder, stranger)


@pytest.mark.parametrize("harm", ["gone", "card", "version", "weights", "cut"])
def test_what_is_damaged_is_one_line(engine: Engine, tmp_path: Path, harm: str) -> None:
    folder = write(tmp_path, engine) / "head"
    card, weights = folder / "head.json", folder / "head.safetensors"
    if harm == "gone":
        card.unlink()
    elif harm == "card":
        card.write_text("{")
    elif harm == "version":
        card.write_text(json.dumps(json.loads(card.read_text()) | {"version": 2}))
    elif harm == "weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    else:
        weights.unlink()
    with pytest.raises(CheckpointError) as caught:
        load_head(folder, engine)
    assert "\n" not in str(caught.value)


def test_a_hot_spot_of_the_head_lies_where_the_image_has_it(engine: Engine, tmp_path: Path) -> None:
    head = load_head(write(tmp_path, engine), engine)
    spot = np.zeros((16, 16), dtype=np.float32)
    spot[9, 6] = 1.0
    head.on_grid = lambda seen, names: np.tile(spot, (len(seen), len(names), 1, 1))  # type: ignore[method-assign]
    for shape in ((64, 64), (128, 64), (50, 100)):
        seen: SeenImage = engine.model.config.preprocess.apply(np.zeros(shape, dtype=np.uint8))
        centre = np.array([[6.5 * 4.0, 9.5 * 4.0]])
        x, y = seen.placement.to_original(centre)[0]
        values = head.segment([np.zeros(shape, dtype=np.uint8)], classes=["mass"])[0]["mass"]
        row, column = np.unravel_index(np.nanargmax(values), shape)
        half_a_cell = 2.0 * max(shape) / 64 + 0.5
        assert abs(column + 0.5 - x) <= half_a_cell
        assert abs(row + 0.5 - y) <= half_a_cell
