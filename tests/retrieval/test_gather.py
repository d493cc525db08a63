from pathlib import Path

import numpy as np
import pytest

from tests.inference.conftest import save_tiny
from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.inference.engine import load
from vlp.retrieval.gather import embedded, known_splits, stored
from vlp.retrieval.segments import case_frame
from vlp.retrieval.store import embed


def test_the_images_of_studies_with_what_is_known_of_them(engine, reader: ShardReader) -> None:
    keys = reader.keys("train")
    content = embedded(engine, reader, keys)
    cases = case_frame(content.cases)
    expected = [(key, image) for key in keys for image in range(reader.num_images(key))]
    assert list(zip(cases["key"], cases["image"], strict=True)) == expected
    (space,) = content.spaces
    assert (space.kind, space.owners.tolist()) == ("view", list(range(len(expected))))
    for row, (key, image) in enumerate(expected):
        study = reader.study(key)
        np.testing.assert_array_equal(space.vectors[row], engine.embed([reader.image(key, image)])[0])
        assert content.reports[row] == (study.report.text if study.report else None)
        assert cases["absent"].iloc[row] == tuple(name for name, said in study.labels.items() if said == "absent")


def test_a_store_gives_all_of_its_vectors_to_their_images(reader: ShardReader, tmp_path: Path) -> None:
    engine = load(save_tiny(tmp_path / "model", "similarity_attention"), device="cpu")
    store = embed(engine, reader, tmp_path / "store", kinds=("global", "view", "finding"), findings=["mass", "nodule"])
    content = stored(store, splits=("test",))
    cases = case_frame(content.cases)
    assert set(cases["key"]) == set(reader.keys("test"))
    assert len(cases) == sum(reader.num_images(key) for key in reader.keys("test"))
    spaces = {(space.kind, space.what): space for space in content.spaces}
    assert sorted(spaces) == [("finding", "mass"), ("finding", "nodule"), ("global", ""), ("view", "")]
    by_view = embedded(engine, reader, reader.keys("test"))
    places = case_frame(by_view.cases)
    order = {name: row for row, name in enumerate(zip(places["key"], places["image"], strict=True))}
    view = spaces["view", ""]
    for vector, owner in zip(view.vectors, view.owners, strict=True):
        row = order[cases["key"].iloc[owner], cases["image"].iloc[owner]]
        np.testing.assert_allclose(vector, by_view.spaces[0].vectors[row], atol=2e-3)
    whole = spaces["global", ""]
    assert (cases["image"].to_numpy()[whole.owners] == 0).all()
    frame = store.rows("finding")
    vectors = np.concatenate(list(store.vectors("finding")))
    for what in ("mass", "nodule"):
        space = spaces["finding", what]
        for vector, owner in zip(space.vectors, space.owners, strict=True):
            case = cases.iloc[owner]
            at = (frame["key"] == case["key"]) & (frame["image"] == case["image"]) & (frame["what"] == what)
            np.testing.assert_array_equal(vectors[at.to_numpy()][0], vector)
    with pytest.raises(DataError, match="no study to index in the splits val"):
        stored(store, splits=("val",))


def test_splits_come_in_their_usual_order() -> None:
    assert known_splits(None) == ("train", "val", "test")
    assert known_splits(["test", "train"]) == ("train", "test")
    with pytest.raises(DataError, match="no split 'tset'"):
        known_splits(["tset"])
