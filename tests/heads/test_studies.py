from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.conftest import draw
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.heads.studies import chosen_patients, keys_of, refuse_shared_patients

PEOPLE = [f"person-{number}" for number in range(200)]


def test_a_share_has_its_size_and_smaller_ones_lie_in_larger_ones() -> None:
    shares = (0.01, 0.1, 0.5, 1.0)
    chosen = [chosen_patients(PEOPLE, share=share, seed=3) for share in shares]
    assert [len(each) for each in chosen] == [2, 20, 100, 200]
    assert all(small < large for small, large in pairwise(chosen))


def test_who_is_chosen_depends_on_the_seed_and_on_nothing_else() -> None:
    first = chosen_patients(PEOPLE, share=0.1, seed=3)
    assert chosen_patients(PEOPLE[::-1] * 2, share=0.1, seed=3) == first
    assert chosen_patients(PEOPLE, share=0.1, seed=4) != first
    assert len(chosen_patients(PEOPLE[:3], share=0.001, seed=0)) == 1


def test_all_studies_of_a_patient_come_along(reader: ShardReader) -> None:
    keys = keys_of(reader, "train", share=0.2, seed=1)
    people = {reader.sample(key).patient for key in keys}
    assert len(people) == 4
    assert set(keys) == {key for key in reader.keys("train") if reader.sample(key).patient in people}
    assert keys_of(reader, "train") == reader.keys("train")


def test_a_patient_in_two_splits_and_an_empty_split_are_refused(reader: ShardReader, tmp_path: Path) -> None:
    refuse_shared_patients(reader, ("train", "val", "test"))
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "shards", image_format="png") as writer:
        writer.write(draw(0, "train", rng=rng))
    with pytest.raises(DataError, match="no study in the split 'val'"):
        refuse_shared_patients(open_shards(tmp_path / "shards"), ("train", "val"))
    with pytest.raises(DataError, match=r"\d+ patients are in both train and train; split by patient"):
        refuse_shared_patients(reader, ("train", "train"))
