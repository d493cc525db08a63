import csv
import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.ingest import cells
from vlp.ingest.cells import LONG, Cells, Lines, state_of
from vlp.ingest.tables import read_table

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2 * LONG)


def _csv(path, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    path.write_bytes(text.getvalue().encode("utf-8-sig"))
    return path


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6), data=st.data())
def test_long_cells_come_back_as_they_were_in_any_order(rows, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    _csv(folder / "t.csv", [("a", "b"), *rows])
    (folder / "t.jsonl").write_text("\n\n".join(json.dumps({"a": a, "b": b}, ensure_ascii=False) for a, b in rows))
    for name in ("t.csv", "t.jsonl"):
        table = read_table(folder / name, columns=["b"], optional=["a", "c"])
        for index in data.draw(st.permutations(range(len(rows)))):
            assert table.rows[index] == {"a": rows[index][0], "b": rows[index][1], "c": ""}
        assert list(table.columns["a"]) == [a for a, _ in rows]
        assert table.columns["b"][:] == [b for _, b in rows]


def test_memory_does_not_grow_with_long_cells(tmp_path):
    num_rows = 400
    path = _csv(tmp_path / "t.csv", [("id", "report"), *((str(i), f"{i} " * 5000) for i in range(num_rows))])
    tracemalloc.start()
    table = read_table(path, columns=["id", "report"])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 5_000_000
    assert kept < 300_000
    assert table.rows[num_rows - 1]["report"] == f"{num_rows - 1} " * 5000


def test_a_table_that_changes_underneath_is_noticed(tmp_path):
    path = _csv(tmp_path / "t.csv", [("id", "report"), ("1", "x" * LONG), ("2", "y" * LONG)])
    table = read_table(path, columns=["id", "report"])
    _csv(path, [("id", "report"), ("1", "x" * (LONG + 1)), ("2", "y" * LONG)])
    assert table.columns["id"][1] == "2"  # short cells were kept
    with pytest.raises(DataError, match="has changed while it was being read"):
        table.rows[1]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        table.rows[0]


def test_a_row_is_read_once_for_all_its_long_cells(tmp_path, monkeypatch):
    path = _csv(tmp_path / "t.csv", [("a", "b", "c"), ("x" * LONG, "y" * LONG, "z" * LONG)])
    table = read_table(path, columns=["a", "b", "c"])
    asked = []
    monkeypatch.setattr(cells, "state_of", lambda path: asked.append(path) or state_of(path))
    assert table.rows[0]["c"] == "z" * LONG
    assert asked == [path]


def test_cells_without_a_store_are_all_kept():
    column = Cells(0, None)
    column.append("x" * 2 * LONG)
    assert column[0] == "x" * 2 * LONG
    with pytest.raises(IndexError):
        column[1]


def test_lines_count_bytes_not_characters():
    lines = Lines(io.BytesIO(b"\xef\xbb\xbf" + "ä\r\nb".encode()), "utf-8")
    assert [(line, lines.offset) for line in lines] == [("ä\r\n", 7), ("b", 8)]
