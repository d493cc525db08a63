from pathlib import Path

import pytest

from vlp.data import ShardReader
from vlp.errors import CheckpointError, DataError
from vlp.retrieval.index import Index, build
from vlp.retrieval.query import by_image, by_key, by_text
from vlp.retrieval.search import Hits


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
