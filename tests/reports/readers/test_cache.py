from collections import Counter

import pytest

from vlp.errors import BackendError
from vlp.records import Certainty
from vlp.reports.reader import Statement
from vlp.reports.readers.cache import AnswerCache, Kept, sha256

KEPT = Kept(
    [[Statement("edema", Certainty.UNCERTAIN, "left", "small"), Statement("mass", Certainty.ABSENT, sign=True)], []],
    Counter({"not in the text": 2}),
    "a" * 64,
    3,
)


def test_an_answer_comes_back_as_it_was_kept(tmp_path):
    cache = AnswerCache(tmp_path / "new" / "folder")
    key = sha256("x")
    assert cache.get(key) is None
    cache.put(key, KEPT)
    assert cache.get(key) == KEPT
    assert AnswerCache(tmp_path / "new" / "folder").get(key) == KEPT
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{key}.json"]


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"statements": 3}', '{"statements": [[{"finding": 1}]]}'])
def test_a_damaged_file_is_no_answer_and_is_written_again(tmp_path, damaged):
    cache = AnswerCache(tmp_path)
    key = sha256("x")
    cache.put(key, KEPT)
    (path,) = tmp_path.rglob("*.json")
    path.write_text(damaged)
    assert cache.get(key) is None
    cache.put(key, KEPT)
    assert cache.get(key) == KEPT


def test_without_a_folder_nothing_is_kept():
    cache = AnswerCache(None)
    cache.put("00", KEPT)
    assert cache.get("00") is None


def test_a_folder_that_cannot_be_written_is_a_fault_in_plain_words(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="cannot write the answer cache"):
        AnswerCache(tmp_path / "file").put(sha256("x"), KEPT)


def test_the_hash_tells_texts_apart_by_where_they_are_cut():
    rows = [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ("a\0b",), ("a", "b"), ("1:a",), ("\ud800",)]
    assert len({sha256(*row) for row in rows}) == len(rows)
