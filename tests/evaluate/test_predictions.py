from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from vlp.errors import DataError
from vlp.evaluate.predictions import columns_of, fingerprint, path_of, read, refusals, scored, write


def row(**changes: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(columns_of("classification"), "x"),
        "status": "ok",
        "score": 0.5,
        "label": None,
        **changes,
    }


def case(**changes: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {name: [] for name in ("findings", "absent", "uncertain", "tower", "thumbnail")}
    text = dict.fromkeys(columns_of("retrieval"), "x")
    return {**text, **lists, "query": True, "gallery": True, "age": 1.0, "embedding": [1.0], "status": "ok", **changes}


def test_order_of_computation_leaves_no_trace(tmp_path: Path) -> None:
    rows = [row(study_id="b"), row(study_id="a", score=0.25)]
    first = write(rows, tmp_path / "1", "classification").read_bytes()
    assert write(rows[::-1], tmp_path / "2", "classification").read_bytes() == first
    assert [one["study_id"] for one in read(tmp_path / "1", "classification")] == ["a", "b"]
    assert read(tmp_path / "1", "classification")[1] == rows[0]


def test_repeated_rows_are_an_error_not_an_average(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 rows repeat another"):
        write([row(), row(score=0.9)], tmp_path, "classification")
    assert not path_of(tmp_path, "classification").exists()


def test_scores_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 scores are not numbers"):
        write([row(score=float("nan"))], tmp_path, "classification")


def test_refused_rows_stay_and_are_counted(tmp_path: Path) -> None:
    refused = row(study_id="z", status="refused", status_reason="no frontal view", score=None)
    write([row(), refused, {**refused, "finding": "y"}], tmp_path, "classification")
    rows = read(tmp_path, "classification")
    assert len(rows) == 3
    assert len(scored(rows)) == 1
    assert refusals(rows) == {"no frontal view": 1}


def test_nothing_but_refusals_gives_no_figure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 1 rows were refused"):
        write([row(status="refused", score=None)], tmp_path, "classification")


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run `vlp evaluate` first"):
        read(tmp_path, "classification")
    path_of(tmp_path, "classification").parent.mkdir(parents=True)
    path_of(tmp_path, "classification").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="not a readable parquet file"):
        read(tmp_path, "classification")
    other = write([case()], tmp_path, "retrieval")
    other.rename(path_of(tmp_path, "classification"))
    with pytest.raises(DataError, match="lacks the columns finding, score_name"):
        read(tmp_path, "classification")


def test_cases_of_an_earlier_version_are_read_and_others_keep_their_small_vectors(tmp_path: Path) -> None:
    path = write([case(tower=[0.5, 0.1], age=None)], tmp_path, "retrieval")
    (row,) = read(tmp_path, "retrieval")
    assert (row["tower"], row["age"]) == ([0.5, float(np.float16(0.1))], None)
    table = parquet.read_table(path)
    assert str(table.schema.field("thumbnail").type.value_type) == "halffloat"
    parquet.write_table(table.drop_columns(["absent", "uncertain", "age", "sex", "tower", "thumbnail"]), path)
    (row,) = read(tmp_path, "retrieval")
    assert "tower" not in row
    parquet.write_table(parquet.read_table(path).drop_columns(["embedding"]), path)
    with pytest.raises(DataError, match="lacks the columns embedding"):
        read(tmp_path, "retrieval")


def test_fingerprints_follow_content_not_order() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(["a", "b"]) != fingerprint(["b", "a"])


def test_every_number_of_a_task_must_be_one(tmp_path: Path) -> None:
    for task, numbers in (("negation", ("pos", "neg", "pnc")), ("paraphrases", ("score",))):
        good = {**dict.fromkeys(columns_of(task), "x"), **dict.fromkeys(numbers, 0.5), "status": "ok"}
        write([good], tmp_path, task)
        for name in numbers:
            with pytest.raises(DataError, match=f"predictions of {task}: 1 scores are not numbers"):
                write([{**good, name: None}], tmp_path, task)
