from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlp
from tests.inference.conftest import save_tiny
from vlp.errors import BackendError, CheckpointError, DataError
from vlp.inference.engine import Engine, load

TEXTS = ["There is pleural effusion.", "There is no pleural effusion.", "There is a nodule of the left lung."]


def test_the_package_names_the_door(tiny: Path) -> None:
    assert vlp.load is load
    assert vlp.Engine is Engine
    assert isinstance(vlp.load(tiny), vlp.Engine)
    assert isinstance(vlp.load(str(tiny), device="cpu"), vlp.Engine)


def test_batching_changes_nothing(engine: Engine, pictures: list[np.ndarray]) -> None:
    """Six images of several shapes in batches of four, against one at a time; masks for padding come and go."""
    features, placements = engine.features(pictures)
    for index, picture in enumerate(pictures):
        one, where = engine.features([picture])
        torch.testing.assert_close(features.patches[index], one.patches[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features.pooled[index], one.pooled[0], atol=1e-5, rtol=1e-4)
        assert placements[index] == where[0]
        assert features.padding is not None
        alone = torch.zeros_like(features.padding[index]) if one.padding is None else one.padding[0]
        assert torch.equal(features.padding[index], alone)
    np.testing.assert_allclose(engine.embed(pictures), engine.vectors(features), atol=1e-5)
    assert engine.features(pictures[:1])[0].padding is None, "a square image has no padding"


def test_vectors_are_unit_float32(engine: Engine, pictures: list[np.ndarray]) -> None:
    for vectors in (engine.embed(pictures), engine.encode_text(TEXTS)):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)


def test_similarity_is_the_models_own(engine: Engine, pictures: list[np.ndarray]) -> None:
    similarity = engine.similarity(TEXTS, pictures)
    model = engine.model
    with torch.inference_mode():
        text = model.encode_texts(model.tokenizer(TEXTS))
        for column, picture in enumerate(pictures):
            pixels, _, padding = model.config.preprocess.apply(picture)
            mask = None if padding is None else torch.from_numpy(padding)[None]
            features = model.encode_images(torch.from_numpy(pixels)[None, None], padding=mask)
            expected = model.score(text, features).similarity[:, 0].numpy()
            np.testing.assert_allclose(similarity[:, column], expected, atol=2e-5)
    assert similarity.shape == (3, 6)
    if model.config.scorer.kind == "cosine":
        np.testing.assert_allclose(similarity, engine.encode_text(TEXTS) @ engine.embed(pictures).T, atol=2e-5)


def test_scores_in_pieces_equal_scores_at_once(
    engine: Engine, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, _ = engine.features(pictures)
    whole = engine.scores(TEXTS, features)
    monkeypatch.setattr("vlp.inference.engine._SCORE_CELLS", 1)
    for together, pieces in zip(whole, engine.scores(TEXTS, features), strict=True):
        np.testing.assert_allclose(pieces, together, atol=1e-6)


def test_each_sentence_is_encoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(tiny, device="cpu")
    seen: list[int] = []
    encode = engine.model.encode_texts
    monkeypatch.setattr(engine.model, "encode_texts", lambda tokens: seen.append(len(tokens.ids)) or encode(tokens))
    first = engine.encode_text([TEXTS[0], TEXTS[1], TEXTS[0]])
    again = engine.encode_text([TEXTS[1], TEXTS[2]])
    assert seen == [2, 1]
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], again[0])


def test_invisible_characters_and_white_space_do_not_count(engine: Engine) -> None:
    plain, dressed = engine.encode_text(["There is a nodule.", "  There\u200b is\n\ta \u202enodule.\u0000 "])
    np.testing.assert_array_equal(plain, dressed)
    composed, decomposed = engine.encode_text(["caf\u00e9", "cafe\u0301"])
    np.testing.assert_array_equal(composed, decomposed)


@pytest.mark.parametrize("text", ["", "   ", "\n", "...", "\u200b", "?!"])
def test_an_empty_text_is_refused(engine: Engine, text: str) -> None:
    with pytest.raises(DataError, match="a text is empty"):
        engine.encode_text(["There is a nodule.", text])


def test_a_text_over_the_limit_is_refused_with_count_and_limit(engine: Engine) -> None:
    limit = engine.model.tokenizer.max_tokens
    marks = int(engine.model.tokenizer([""]).mask.sum())
    fits = " ".join(["a"] * (limit - marks))
    assert engine.encode_text([fits]).shape[0] == 1
    with pytest.raises(DataError, match=rf"a text has {limit + 1} tokens, the model reads at most {limit}"):
        engine.encode_text([fits + " b"])


def test_no_text_and_no_image_are_refused(engine: Engine, pictures: list[np.ndarray]) -> None:
    for texts in ([], "There is a nodule."):
        with pytest.raises(DataError, match="at least one sentence"):
            engine.encode_text(texts)
    for ask in (engine.embed, engine.features):
        with pytest.raises(DataError, match="no image"):
            ask([])


def test_files_are_read_as_their_pixels(engine: Engine, pictures: list[np.ndarray], tmp_path: Path) -> None:
    Image.fromarray(pictures[1]).save(tmp_path / "a.png")
    np.testing.assert_allclose(
        engine.embed([tmp_path / "a.png", str(tmp_path / "a.png")]), engine.embed([pictures[1]] * 2), atol=1e-6
    )


@pytest.mark.parametrize(
    "content", [b"", b"These are words.\n", b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, b"\xff\xd8\xff\xe0" + b"\x00" * 9]
)
def test_a_file_that_is_no_image_is_refused(engine: Engine, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "chest.png"
    file.write_bytes(content)
    for ask in (lambda: engine.embed([file]), lambda: engine.classify(file), lambda: engine.ground(file, "a nodule")):
        with pytest.raises(DataError, match=r"chest\.png") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_truncated_image_and_a_missing_one_are_refused(engine: Engine, pictures: list, tmp_path: Path) -> None:
    Image.fromarray(pictures[3]).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    for name in ("cut.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            engine.embed([tmp_path / name])


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_pixels_of_another_kind_are_refused(engine: Engine, array: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8"):
        engine.embed([array])


def test_a_run_folder_stands_for_its_final_checkpoint(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    folder = save_tiny(tmp_path / "run" / "checkpoints" / "final", "cosine")
    engine = load(tmp_path / "run")
    assert engine.folder == folder
    np.testing.assert_array_equal(engine.embed(pictures[:1]), load(folder).embed(pictures[:1]))


def test_fingerprints_tell_models_apart(tmp_path: Path) -> None:
    first = load(save_tiny(tmp_path / "a", "cosine", seed=1))
    same = load(save_tiny(tmp_path / "b", "cosine", seed=1, note="another card"))
    other_weights = load(save_tiny(tmp_path / "c", "cosine", seed=2))
    other_design = load(save_tiny(tmp_path / "d", "similarity_attention", seed=1))
    assert first.fingerprint == same.fingerprint
    assert len({engine.fingerprint for engine in (first, other_weights, other_design)}) == 3
    with pytest.raises(CheckpointError, match="no checkpoint"):
        _ = Engine(first.model).fingerprint


def test_the_card_may_hold_a_threshold(tmp_path: Path) -> None:
    assert load(save_tiny(tmp_path / "a", "cosine", grounding={"threshold": 0.25})).ground_threshold == 0.25
    assert load(save_tiny(tmp_path / "b", "cosine")).ground_threshold is None


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError):
        load(tmp_path)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", ""])
def test_no_such_device(tiny: Path, device: str) -> None:
    with pytest.raises(BackendError, match="is not there"):
        load(tiny, device=device)


def test_a_model_that_diverged_is_told_from_an_answer(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    engine = load(save_tiny(tmp_path / "a", "cosine"))
    with torch.no_grad():
        engine.model.image_head.weight.fill_(float("nan"))
    for ask in (engine.embed, lambda images: engine.classify(images[0]), lambda images: engine.ground(images[0], "a")):
        with pytest.raises(CheckpointError, match="diverged"):
            ask(pictures)
