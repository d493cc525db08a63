from pathlib import Path

import numpy as np
import pytest

from tests.inference.conftest import save_tiny
from vlp.data import ShardReader
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.inference.engine import Engine, load
from vlp.ingest.partition import Part
from vlp.retrieval.store import VectorStore, attended_vectors, embed, region_vectors
from vlp.retrieval.store.embed import KINDS, plan_of

FINDINGS = ["nodule", "Mass"]


def numbers(store: VectorStore, kind: str) -> np.ndarray:
    return np.concatenate([chunk.astype(np.float32) for chunk in store.vectors(kind)])


@pytest.fixture(scope="module")
def store(engine: Engine, archive: ShardReader, tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    """Everything there is, of the training split."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    embed(engine, archive, folder, kinds=KINDS, splits=["train"], findings=FINDINGS)
    return VectorStore.open(folder)


def test_views_are_what_the_engine_makes_of_each_image(
    store: VectorStore, engine: Engine, archive: ShardReader
) -> None:
    rows, vectors = store.rows("view"), numbers(store, "view")
    places = [(key, image) for key in archive.keys("train") for image in range(archive.num_images(key))]
    assert list(zip(rows["key"], rows["image"], strict=True)) == places
    expected = engine.embed([engine.see(archive, key, image) for key, image in places])
    np.testing.assert_allclose(vectors, expected, atol=3e-4)  # half of a float16's last place below 1 is 2.4e-4
    assert store.facts.counts == {"global": 9, "view": 13, "finding": 26, "region": 2}
    assert (store.facts.studies, store.facts.images, len(store.facts.parts)) == (9, 13, 3)


def test_a_study_as_a_whole_is_the_mean_of_its_views(store: VectorStore, engine: Engine, archive: ShardReader) -> None:
    rows, vectors = store.rows("global"), numbers(store, "global")
    assert list(rows["key"]) == list(archive.keys("train"))
    assert set(rows["image"]) == {0}
    for key, vector in zip(rows["key"], vectors, strict=True):
        seen = [engine.see(archive, key, image) for image in range(archive.num_images(key))]
        mean = engine.embed(seen).mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=3e-4)


def test_findings_and_regions_of_each_image(store: VectorStore, engine: Engine, archive: ShardReader) -> None:
    key = next(key for key in archive.keys("train") if archive.study(key).regions)
    sentences = {"mass": "There is a mass.", "nodule": "There is a nodule."}
    rows, vectors = store.rows("finding"), numbers(store, "finding")
    for image in (0, 1):
        features, placements = engine.features([engine.see(archive, key, image)])
        for finding, sentence in sentences.items():
            found = vectors[((rows["key"] == key) & (rows["image"] == image) & (rows["what"] == finding)).to_numpy()]
            np.testing.assert_allclose(found, attended_vectors(engine, features, [sentence])[0], atol=3e-4)
        region = archive.study(key).regions[image]
        regions = store.rows("region")
        where = (regions["image"] == image).to_numpy()
        expected = region_vectors(engine, features, placements, [[region.geometry]])
        np.testing.assert_allclose(numbers(store, "region")[where], expected, atol=3e-4)
        assert list(regions["what"][where]) == [region.finding]
    assert set(regions["key"]) == {key}


def test_what_is_known_of_an_image_stands_beside_each_of_its_vectors(store: VectorStore, archive: ShardReader) -> None:
    rows = store.rows()
    for row in rows.to_dict("records"):
        study = archive.study(row["key"])
        assert (row["person"], row["study"], row["split"]) == (study.person.id, study.id, "train")
        assert row["view"] == study.images[row["image"]].view
        assert row["present"] == tuple(name for name, said in study.labels.items() if said == "present")
    per_image = rows.groupby(["key", "image"])["fingerprint"].nunique()
    assert (per_image == 1).all()
    assert rows["fingerprint"].nunique() == len(per_image)


def test_parts_made_in_any_order_are_the_whole(
    store: VectorStore, engine: Engine, archive: ShardReader, tmp_path: Path
) -> None:
    options = {"kinds": KINDS, "splits": ["train"], "findings": FINDINGS}
    for number in (2, 1):
        assert embed(engine, archive, tmp_path, part=Part(number=number, count=3), **options).missing
    last = embed(engine, archive, tmp_path, part=Part(number=3, count=3), **options)
    assert not last.missing
    assert last.facts == store.facts, "checksums and all"
    assert VectorStore.open(tmp_path).facts == store.facts
    # More parts than shards: some have nothing to do, and say so by leaving the rest missing.
    idle = embed(engine, archive, tmp_path / "other", part=Part(number=1, count=8), **options)
    assert len(idle.missing) == 3


def test_a_fill_that_was_stopped_goes_on(
    engine: Engine, archive: ShardReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    see = engine.see

    def counted(reader: ShardReader, key: str, image: int = 0):
        seen.append(key)
        if key == breaks_at and seen.count(key) == 1:
            raise DataError("an image that cannot be read")
        return see(reader, key, image)

    monkeypatch.setattr(engine, "see", counted)
    first, second = archive.keys("train")[:3], archive.keys("train")[3:6]
    breaks_at = second[1]
    with pytest.raises(DataError, match="cannot be read"):
        embed(engine, archive, tmp_path / "store", splits=["train"])
    assert sorted(path.name for path in (tmp_path / "store" / "parts").glob("[!.]*")) == [
        f"train-000000.{end}" for end in ("json", "npy", "parquet")
    ]
    with pytest.raises(DataError, match="not complete"):
        VectorStore.open(tmp_path / "store")
    again = len(seen)
    embed(engine, archive, tmp_path / "store", splits=["train"])
    assert not set(seen[again:]) & set(first), "a part that is there is not made again"
    assert set(second) <= set(seen[again:])
    whole = len(seen)
    store = embed(engine, archive, tmp_path / "store", splits=["train"])
    assert not store.missing
    assert len(seen) == whole, "nothing was left to do"


def test_another_model_is_refused(engine: Engine, archive: ShardReader, tmp_path: Path) -> None:
    embed(engine, archive, tmp_path / "store", splits=["test"])
    before = (tmp_path / "store" / "store.json").read_bytes()
    other = load(save_tiny(tmp_path / "model", "cosine", seed=9), device="cpu")
    with pytest.raises(CheckpointError, match="checkpoint differ"):
        embed(other, archive, tmp_path / "store", splits=["test"])
    with pytest.raises(ConfigError, match="splits, parts differ"):
        embed(engine, archive, tmp_path / "store", splits=["train"])
    assert (tmp_path / "store" / "store.json").read_bytes() == before


def test_findings_by_name_and_by_default(engine: Engine, archive: ShardReader) -> None:
    assert plan_of(engine, archive, kinds=["finding"]).findings == ("mass", "nodule"), "those with labels"
    assert plan_of(engine, archive, kinds=["finding"], findings=["PTX", "Effusion"]).findings == (
        "pleural effusion",
        "pneumothorax",
    )
    assert plan_of(engine, archive).kinds == ("global", "view")
    assert plan_of(engine, archive, kinds=["region", "view"]).kinds == ("view", "region")
    assert plan_of(engine, archive).splits == ("train", "val", "test")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kinds": ["veiw"]}, DataError, "no kind 'veiw'; there are global, view, finding, region"),
        ({"kinds": []}, DataError, "no kind is named"),
        ({"splits": ["tset"]}, DataError, "no split 'tset'; there are train"),
        ({"splits": ["val"]}, DataError, "no study to embed in the splits val"),
        ({"findings": ["mass"]}, ConfigError, "add the kind finding"),
        ({"kinds": ["finding"], "findings": ["unicorn"]}, DataError, "no finding 'unicorn'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    engine: Engine, archive: ShardReader, tmp_path: Path, options: dict, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        embed(engine, archive, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()
