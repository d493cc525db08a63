from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from vlp.data import ShardReader, open_shards
from vlp.data.transforms import Preprocess
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.inference.engine import Engine
from vlp.model import ModelConfig, build
from vlp.model.scorers import CosineConfig, SimilarityAttentionConfig
from vlp.model.towers import HuggingFaceTextConfig, TimmTowerConfig
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Report, Sentence, Study
from vlp.retrieval.search import Hit
from vlp.retrieval.why import Asked, SimilarityMap, explain, overlap, vector_maps

SHAPES = [(64, 64), (90, 40), (64, 64), (40, 90)]
WORDS = ["Heart is large.", "Effusion on the left,\n  small.", "No pneumothorax.", "Previous film of May."]
STATED: list[tuple[str | None, str]] = [
    ("cardiomegaly", "There is cardiomegaly."),
    ("pleural effusion", "There is pleural effusion of the left lung."),
    ("pneumothorax", "There is no pneumothorax."),
    (None, "Previous film of May."),
]
FINDINGS = ["atelectasis", "edema", "mass", "no finding", "nodule"]


def stated(count: int, *, origin: Any = "report") -> tuple[Report | None, tuple[Sentence, ...]]:
    """A report of the first `count` sentences; none where they are made from labels."""
    text = " ".join(WORDS[:count])
    sentences = tuple(
        Sentence(
            start=0 if origin == "labels" else text.index(written),
            end=0 if origin == "labels" else text.index(written) + len(written),
            section="report",
            finding=finding,
            certainty=Certainty.PRESENT,
            text=read,
            origin=origin,
        )
        for written, (finding, read) in zip(WORDS[:count], STATED, strict=False)
    )
    return (Report(text=text) if origin == "report" and count else None), sentences


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """Twelve studies: square, tall and wide images; four sentences, or made from labels, or none."""
    folder: Path = tmp_path_factory.mktemp("why") / "shards"
    with ShardWriter(folder, samples_per_shard=20, image_format="png") as writer:
        for number in range(12):
            rows, columns = SHAPES[number % 4]
            report, sentences = stated((4, 4, 2, 0)[number % 4], origin="labels" if number % 4 == 2 else "report")
            study = Study(
                id=f"s{number}",
                person=Person(id=f"p{number}"),
                images=(ImageFile(id=f"i{number}", path=None, view="PA", rows=rows, columns=columns),),
                report=report,
                sentences=sentences,
                labels={"edema": Certainty.PRESENT, "mass": Certainty.ABSENT} if number % 4 != 3 else {},
                source="made",
                split="train",
            )
            pixels = np.random.default_rng(number).integers(0, 256, size=(rows, columns)).astype(np.uint8)
            writer.write(LoadedStudy(study=study, pixels=(pixels,)))
    return open_shards(folder)


@pytest.fixture(scope="module", params=["cosine", "similarity_attention"])
def engine(request: pytest.FixtureRequest) -> Engine:
    torch.manual_seed(3)
    config = ModelConfig(
        image=TimmTowerConfig(
            name="vit_tiny_patch16_224", arguments={"patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
        ),
        text=HuggingFaceTextConfig(
            max_tokens=48,
            random_init={
                "model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 32, "max_position_embeddings": 48,
            },
        ),
        dim=24,
        scorer=CosineConfig() if request.param == "cosine" else SimilarityAttentionConfig(),
        preprocess=Preprocess(size=64, fit="letterbox"),
    )  # fmt: skip
    return Engine(build(config), batch_images=4)


def hits_of(reader: ShardReader, numbers: list[int], *, present: tuple[str, ...] = ("edema",)) -> list[Hit]:
    keys = {reader.study(key).id: key for key in reader.keys(None)}
    return [
        Hit(
            key=keys[f"s{number}"],
            image=0,
            score=0.5,
            study=f"s{number}",
            person=f"p{number}",
            view="PA",
            split="train",
            present=present,
            report=None,
            age=None,
            sex=None,
            source="made",
            synthetic=False,
        )
        for number in numbers
    ]


def unit_patches(engine: Engine, picture: Any) -> tuple[np.ndarray, np.ndarray]:
    """(unit vectors of an image's patches [patch dim], True where there is only padding [patch])."""
    features, _ = engine.features([picture])
    with torch.inference_mode():
        patches = engine.model.scorer.unit(features.patches)[0].numpy()
    padding = np.zeros(len(patches), dtype=bool) if features.padding is None else features.padding[0].numpy()
    return patches, padding


def test_maps_of_a_texts_vector_are_the_engines_maps_of_the_text(engine: Engine, reader: ShardReader) -> None:
    texts = ["There is edema.", "There is no mass."]
    features, _ = engine.features([engine.see(reader, hit.key) for hit in hits_of(reader, [0, 1, 3])])
    assert features.padding is not None
    assert features.padding.any(), "two of the images have bars"
    np.testing.assert_allclose(
        vector_maps(engine, engine.encode_text(texts), features), engine.maps_of(texts, features), atol=1e-6
    )


def test_each_image_is_compared_with_the_others_vector(engine: Engine, reader: ShardReader) -> None:
    query, *cases = hits_of(reader, [1, 0, 3, 2, *range(4, 12)])
    asked = Asked.of_study(reader, query.key, engine=engine)
    assert asked.present == ("edema",)
    found = explain(asked, cases, reader, engine=engine)
    assert [why.key for why in found] == [hit.key for hit in cases], "more than are looked at in one go"
    seen = engine.see(reader, query.key)
    ours, bars = unit_patches(engine, seen)
    vector = engine.embed([seen])[0]
    for why, hit in zip(found, cases, strict=True):
        case = engine.see(reader, hit.key)
        theirs, case_bars = unit_patches(engine, case)
        assert why.query_map is not None
        assert why.case_map is not None
        case_vector = engine.embed([case])[0]
        np.testing.assert_allclose(why.case_map.values.ravel()[~case_bars], (theirs @ vector)[~case_bars], atol=1e-5)
        np.testing.assert_allclose(why.query_map.values.ravel()[~bars], (ours @ case_vector)[~bars], atol=1e-5)
        assert why.case_map.placement == case.placement
        assert why.query_map.placement == seen.placement


@pytest.mark.parametrize("engine", ["similarity_attention"], indirect=True)
def test_the_map_says_where_the_score_comes_from(reader: ShardReader, engine: Engine) -> None:
    """For a model whose vector of an image is the mean of its patches', as the module's text has it."""
    query, case = hits_of(reader, [0, 2])
    (why,) = explain(Asked.of_study(reader, query.key, engine=engine), [case], reader, engine=engine)
    patches, _ = unit_patches(engine, engine.see(reader, case.key))
    vectors = engine.embed([engine.see(reader, hit.key) for hit in (query, case)])
    assert why.case_map is not None
    score = why.case_map.values.mean() / np.linalg.norm(patches.mean(axis=0))
    assert score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)


def test_about_a_finding_both_maps_are_of_its_sentence(engine: Engine, reader: ShardReader) -> None:
    query, *cases = hits_of(reader, [0, 1, 4])
    asked = replace(Asked.of_study(reader, query.key, engine=engine), finding="pleural effusion")
    text = ["There is pleural effusion."]
    for why, hit in zip(explain(asked, cases, reader, engine=engine), cases, strict=True):
        assert why.query_map is not None
        assert why.case_map is not None
        np.testing.assert_allclose(
            why.query_map.values, engine.maps(text, engine.see(reader, query.key))[0][0], atol=1e-5
        )
        np.testing.assert_allclose(why.case_map.values, engine.maps(text, engine.see(reader, hit.key))[0][0], atol=1e-5)
        assert why.sentence is not None
        assert why.sentence.text == "Effusion on the left, small.", "the one sentence about it, in its own words"


def test_words_have_no_map_of_their_own(engine: Engine, reader: ShardReader) -> None:
    (case,) = hits_of(reader, [1])
    (why,) = explain(Asked(text="There is edema."), [case], reader, engine=engine)
    assert why.query_map is None
    assert why.overlap is None, "words have no labels"
    assert why.case_map is not None
    expected = engine.maps(["There is edema."], engine.see(reader, case.key))[0][0]
    np.testing.assert_allclose(why.case_map.values, expected, atol=1e-5)


def test_a_vector_that_was_searched_with_is_the_one_compared(engine: Engine, reader: ShardReader) -> None:
    """A box's, or image and text mixed by weight; the mean of both where nobody says."""
    query, case = hits_of(reader, [0, 2])
    pixels = reader.image(query.key)
    vector = engine.encode_text(["There is a nodule."])[0]
    (boxed,) = explain(Asked(pixels=pixels, box=(0, 0, 9, 9), vector=vector), [case], reader, engine=engine)
    patches, _ = unit_patches(engine, engine.see(reader, case.key))
    assert boxed.case_map is not None
    np.testing.assert_allclose(boxed.case_map.values.ravel(), patches @ vector, atol=1e-5)
    (mixed,) = explain(Asked(pixels=pixels, text="There is a nodule."), [case], reader, engine=engine)
    both = engine.embed([pixels])[0] + vector
    assert mixed.case_map is not None
    np.testing.assert_allclose(mixed.case_map.values.ravel(), patches @ (both / np.linalg.norm(both)), atol=1e-5)


def test_the_closest_sentence_about_a_finding_is_quoted(engine: Engine, reader: ShardReader) -> None:
    query, case, from_labels, wordless = hits_of(reader, [0, 1, 2, 3])
    asked = Asked.of_study(reader, query.key, engine=engine)
    full, made, none = explain(asked, [case, from_labels, wordless], reader, engine=engine)
    vector = engine.embed([engine.see(reader, query.key)])[0]
    cosines = {
        " ".join(written.split()): float(engine.encode_text([read])[0] @ vector)
        for written, (finding, read) in zip(WORDS, STATED, strict=True)
        if finding is not None
    }
    assert full.sentence is not None
    assert full.sentence.text == max(cosines, key=lambda text: cosines[text])
    assert full.sentence.similarity == pytest.approx(max(cosines.values()), abs=1e-5)
    assert not full.sentence.made_from_labels
    assert full.report == " ".join(WORDS)
    assert made.sentence is not None
    assert made.sentence.made_from_labels
    assert made.sentence.text in {read for _, read in STATED[:2]}
    assert made.report is None
    assert none.sentence is None


def test_sentences_the_model_cannot_read_are_passed_over(
    engine: Engine, reader: ShardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    (case,) = hits_of(reader, [0])
    study = reader.study(case.key)
    unreadable = [replace(study.sentences[0], text=text) for text in ("... --", "word " * 200)]

    def only(*sentences: Sentence) -> Any:
        monkeypatch.setattr(reader, "study", lambda key: replace(study, sentences=sentences))
        return explain(Asked(text="There is edema."), [case], reader, engine=engine)[0].sentence

    assert only(*unreadable) is None
    found = only(*unreadable, study.sentences[3])
    assert found is not None
    assert found.text == WORDS[3], "where nothing is said of a finding, any sentence will do"


def test_without_a_model_there_are_labels_and_reports_alone(reader: ShardReader) -> None:
    query, case, unlabelled = hits_of(reader, [0, 1, 3])
    (why,) = explain(Asked.of_study(reader, query.key), [case], reader)
    assert (why.query_map, why.case_map, why.sentence) == (None, None, None)
    assert why.overlap is not None
    assert why.overlap.jaccard == 1.0
    assert why.report == " ".join(WORDS)
    assert Asked.of_study(reader, unlabelled.key).present is None, "no label at all is not the same as nothing there"


def test_a_case_of_other_shards_is_refused_in_one_line(reader: ShardReader) -> None:
    stranger = replace(hits_of(reader, [0])[0], key="f" * 20)
    with pytest.raises(DataError, match="the shards the index was built from"):
        explain(Asked(text="There is edema."), [stranger], reader)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.sampled_from(FINDINGS)), st.sets(st.sampled_from(FINDINGS)))
def test_overlap_is_scikit_learns_jaccard_of_the_findings(query: set[str], case: set[str]) -> None:
    found = overlap(sorted(query), sorted(case))
    assert found is not None
    rows = [[name in side for name in FINDINGS if name != "no finding"] for side in (query, case)]
    assert found.jaccard == (pytest.approx(jaccard_score(*rows)) if any(rows[0] + rows[1]) else None)
    assert set(found.shared) == (query & case) - {"no finding"}
    assert set(found.only_case) == (case - query) - {"no finding"}


def test_nothing_is_said_of_labels_nobody_has() -> None:
    assert overlap(None, ["mass"]) is None


def test_a_map_lies_over_the_image_at_any_size() -> None:
    placement = Preprocess(size=64, fit="letterbox").apply(np.zeros((90, 40), dtype=np.uint8)).placement
    found = SimilarityMap(values=np.arange(64, dtype=np.float32).reshape(8, 8), placement=placement)
    whole = placement.map_to_original(found.values)
    np.testing.assert_allclose(found.resized(90, 40), whole, atol=1e-4)
    # Bilinear within patches of many pixels: a pixel of the half-size map is the mean of four of the whole.
    half = whole.reshape(45, 2, 20, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found.resized(45, 20), half, atol=1.0)
    assert np.abs(found.resized(45, 20) - half).mean() < 0.05


def test_a_query_is_something() -> None:
    with pytest.raises(AssertionError):
        Asked()
    with pytest.raises(AssertionError):
        Asked(pixels=np.zeros((4, 4), np.uint8), box=(0, 0, 1, 1))
