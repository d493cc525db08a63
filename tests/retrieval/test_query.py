from pathlib import Path

import numpy as np
import pytest

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import SIDE
from vlp.data import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.inference.engine import Engine, load
from vlp.retrieval.filters import Filter
from vlp.retrieval.index import Index, build, from_store
from vlp.retrieval.query import by_image, by_key, by_text, vector_of
from vlp.retrieval.search import Hits
from vlp.retrieval.store import attended_vectors, embed, region_vectors


@pytest.fixture
def index(engine, reader: ShardReader, tmp_path: Path) -> Index:
    return build(engine, reader, tmp_path / "index", splits=["train"])


def test_by_key_leaves_the_person_out(index: Index, reader: ShardReader) -> None:
    for key in reader.keys("train"):
        person = reader.study(key).person.id
        hits = by_key(index, key, k=50)
        assert len(hits) == 6, "nine studies in the split, three of them the person's own"
        assert person not in {hit.person for hit in hits}
        assert hits.excluded == 3


def test_by_key_of_another_split_needs_its_shards(index: Index, engine, reader: ShardReader) -> None:
    key = reader.keys("test")[0]
    with pytest.raises(DataError, match="--shards"):
        by_key(index, key, engine=engine)
    hits = by_key(index, key, k=3, engine=engine, reader=reader)
    assert [hit.key for hit in hits] == [hit.key for hit in by_image(index, engine, reader.image(key), k=3)]


def test_an_image_finds_itself_and_says_what_it_is(index: Index, engine, reader: ShardReader) -> None:
    key = reader.keys("train")[1]
    study = reader.study(key)
    hits = by_image(index, engine, reader.image(key), k=2, keep_duplicates=True)
    hit = hits[0]
    assert (hit.key, hit.study, hit.person) == (key, study.id, study.person.id)
    assert hit.score == pytest.approx(1.0, abs=1e-5)
    assert [found.same_image for found in hits] == [True, False]
    assert hit.report == study.report.text
    assert hit.present == ("nodule",)
    assert (hit.age, hit.sex, hit.split) == (study.person.age, study.person.sex, "train")
    assert hits.query == "image"


def test_a_second_view_finds_its_study_once(index: Index, engine, reader: ShardReader) -> None:
    key = next(key for key in reader.keys("train") if reader.num_images(key) == 2)
    hits = by_image(index, engine, reader.image(key, 1), k=9, keep_duplicates=True)
    assert (hits[0].key, hits[0].image, hits[0].view) == (key, 1, "lateral")
    assert len({hit.key for hit in hits}) == len(hits) == 9


def test_by_text_compares_the_text_with_every_image(index: Index, engine) -> None:
    text = "There is a nodule."
    hits = by_text(index, engine, text, k=9)
    assert hits.query == "text"
    assert not any(hit.same_image for hit in hits)
    assert hits.to_json()["score"] == "cosine of text and image"
    vector = engine.encode_text([text])[0]
    assert hits[0].score == pytest.approx(
        max(float(index.vector(hit.key, hit.image) @ vector) for hit in hits), abs=1e-5
    )


def test_another_checkpoint_is_refused(index: Index, reader: ShardReader, engine) -> None:
    engine.fingerprint = "b" * 64
    for search in (
        lambda: by_text(index, engine, "There is a nodule."),
        lambda: by_image(index, engine, reader.image(reader.keys("train")[0])),
        lambda: by_key(index, reader.keys("train")[0], engine=engine),
    ):
        with pytest.raises(CheckpointError, match="another checkpoint"):
            search()


def test_hits_behave_like_a_sequence(index: Index, reader: ShardReader) -> None:
    hits = by_key(index, reader.keys("train")[0], k=3)
    assert isinstance(hits, Hits)
    assert list(hits) == list(hits[:]) == [hits[0], hits[1], hits[2]]
    assert len(hits.to_json()["hits"]) == 3


def test_an_image_of_the_archive_leaves_its_person_out_unasked(index: Index, engine, reader: ShardReader) -> None:
    key = reader.keys("train")[1]
    hits = by_image(index, engine, reader.image(key), k=50)
    assert [hit.key for hit in hits] == [hit.key for hit in by_key(index, key, k=50)]
    assert hits.excluded_why == {"near duplicate": 1, "same person": 2}
    assert by_key(index, key).excluded_why == {"same study": 1, "same person": 2}
    assert sum(hits.excluded_why.values()) == hits.excluded


def test_image_and_text_are_their_weighted_mean(index: Index, engine, reader: ShardReader) -> None:
    key = reader.keys("train")[0]
    image, text = index.vector(key), engine.encode_text(["There is a nodule."])[0]
    hits = by_key(index, key, k=50, engine=engine, text="There is a nodule.", text_weight=0.25)
    assert (hits.query, hits.weights) == ("image and text", (0.75, 0.25))
    mixed = 0.75 * image + 0.25 * text
    mixed /= np.linalg.norm(mixed)
    for hit in hits:
        assert hit.score == pytest.approx(float(index.vector(hit.key, hit.image) @ mixed), abs=1e-5)
    with pytest.raises(DataError, match="between 0 and 1"):
        by_key(index, key, engine=engine, text="There is a nodule.", text_weight=1.0)
    with pytest.raises(DataError, match="--checkpoint"):
        by_key(index, key, text="There is a nodule.")
    with pytest.raises(DataError, match="one more thing"):
        by_key(index, key, engine=engine, text="a nodule", finding="nodule")


@pytest.fixture(scope="module")
def real(reader: ShardReader, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, Engine]:
    """An index with vectors of regions and of a finding, by a model with patches."""
    folder = tmp_path_factory.mktemp("real")
    engine = load(save_tiny(folder / "model", "similarity_attention"), device="cpu")
    store = embed(engine, reader, folder / "store", kinds=("view", "finding"), findings=["mass", "nodule"])
    return from_store(store, folder / "index"), engine


def test_a_similar_finding(real: tuple[Index, Engine], reader: ShardReader) -> None:
    index, engine = real
    key = reader.keys("train")[0]
    hits = by_key(index, key, k=50, finding="Mass")
    assert (hits.query, hits.with_what) == ("finding", "what is seen of mass")
    asked = attended_vectors(engine, engine.features([engine.see(reader, key)])[0], ["There is a mass."])[0, 0]
    for hit in hits:
        own = attended_vectors(engine, engine.features([engine.see(reader, hit.key, hit.image)])[0],
                               ["There is a mass."])[0, 0]  # fmt: skip
        assert hit.score == pytest.approx(float(own @ asked), abs=2e-3)
    pixels = by_image(index, engine, reader.image(key), k=50, finding="mass")
    assert [hit.key for hit in pixels] == [hit.key for hit in hits]
    with pytest.raises(DataError, match="no finding is called"):
        by_key(index, key, finding="masss")
    with pytest.raises(DataError, match="no vectors of the kind 'finding: pneumonia'"):
        by_key(index, key, finding="pneumonia")


def test_a_part_of_an_image(real: tuple[Index, Engine], reader: ShardReader) -> None:
    index, engine = real
    key = reader.keys("train")[0]
    box = (0.0, 0.0, SIDE / 2, SIDE / 2)
    hits = by_key(index, key, k=50, box=box, engine=engine, reader=reader)
    assert (hits.query, hits.with_what) == ("region", "image"), "the archive has no regions"
    asked = vector_of(index, engine, reader.image(key), box=box)
    features, placements = engine.features([reader.image(key)])
    np.testing.assert_allclose(asked, region_vectors(engine, features, placements, [[box]])[0], atol=1e-6)
    for hit in hits:
        assert hit.score == pytest.approx(float(index.vector(hit.key, hit.image) @ asked), abs=2e-3)
    with pytest.raises(DataError, match="a box needs the image itself"):
        by_key(index, key, box=box)
    with pytest.raises(DataError, match="inside the image"):
        by_image(index, engine, reader.image(key), box=(100.0, 100.0, 120.0, 120.0))


def test_filters_reach_every_kind_of_query(index: Index, engine, reader: ShardReader) -> None:
    only = Filter.parse("finding=nodule")
    key = reader.keys("train")[0]
    for hits in (
        by_key(index, key, k=50, only=only),
        by_image(index, engine, reader.image(key), k=50, only=only),
        by_text(index, engine, "There is a nodule.", k=50, only=only),
    ):
        assert len(hits)
        assert {hit.present for hit in hits} == {("nodule",)}
        assert hits.studies == len(hits)
        assert hits.studies + hits.excluded + hits.filtered == 9
