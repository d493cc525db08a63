import csv
import gzip
import io
import json
import os

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.ingest.tables import find_table, fingerprint, inside, read_json, read_table

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


def _csv(path, rows, **options):
    text = io.StringIO()
    csv.writer(text, **options).writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=5))
def test_any_text_comes_back_as_it_was(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    table = read_table(_csv(folder / "t.csv", [("a", "b"), *rows]), columns=["b", "a"])
    assert [(row["a"], row["b"]) for row in table.rows] == rows


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "jsonl", "parquet"])
def test_every_form_gives_the_same_cells(ending, tmp_path):
    rows = [{"id": "007", "text": "ä, b\n\tc"}, {"id": "1.0", "text": ""}]
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist([{**row, "text": row["text"] or None} for row in rows]), path
        )
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps({**row, "text": row["text"] or None}) for row in rows))
    else:
        _csv(path, [("id", "text"), *(row.values() for row in rows)], delimiter="\t" if ending == "tsv" else ",")
        if ending.endswith("gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))
    table = read_table(path, columns=["id", "text"], optional=["other"])
    assert list(table.rows) == [{**row, "other": ""} for row in rows]
    assert table.found == {"id", "text"}


def test_lines_are_those_of_the_file_though_cells_hold_line_breaks(tmp_path):
    path = _csv(tmp_path / "t.csv", [("id", "text"), ("a", "one\ntwo\nthree"), ("b", "x"), (), ("c", "y")])
    table = read_table(path, columns=["id"])
    assert [table.line(index) for index in range(3)] == [2, 5, 7]
    assert table.where(1) == f"{path}: line 5"


def test_groups_keep_the_order_of_the_file(tmp_path):
    table = read_table(_csv(tmp_path / "t.csv", [["p"], ["b"], ["a"], ["b"]]), columns=["p"])
    assert list(table.groups("p").items()) == [("b", [0, 2]), ("a", [1])]


def test_rows_are_a_sequence(tmp_path):
    table = read_table(_csv(tmp_path / "t.csv", [["p"], ["b"], ["a"], ["c"]]), columns=["p"])
    assert (table.rows[-1], table.rows[:2], len(table.rows)) == ({"p": "c"}, [{"p": "b"}, {"p": "a"}], 3)
    with pytest.raises(IndexError):
        table.rows[3]


def test_byte_order_mark_blanks_in_names_and_trailing_commas_are_no_part_of_the_data(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfImageId, EncodedPixels,,\n1.2, -1,,\n1.3,4 5\n")
    assert read_table(path, columns=["ImageId", "EncodedPixels"]).rows[0] == {"ImageId": "1.2", "EncodedPixels": " -1"}
    assert read_table(path, columns=["EncodedPixels"]).rows[1] == {"EncodedPixels": "4 5"}
    path.write_bytes(b"a,b\n1,2,,,\n")
    assert read_table(path, columns=["a", "b"]).rows[0] == {"a": "1", "b": "2"}


def test_latin_1_is_read_when_said_and_named_when_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("a\nneumonía\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        read_table(path, columns=["a"])
    assert read_table(path, columns=["a"], encoding="latin-1").rows[0]["a"] == "neumonía"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"a,c\n1,2\n", "column 'b' is missing"),
        ("t.csv", b"", "column 'a', 'b' is missing"),
        ("t.csv", b"a,b,b\n1,2,3\n", "several columns 'b'"),
        ("t.csv", b"a,b\n1,2\nsecret\n", "line 3: 1 cells where 2 belong; is the file cut off"),
        ("t.csv", b"a,b\n1,2,secret\n", "line 2: 3 cells where 2 belong; is a comma not quoted"),
        ("t.csv", b'a,b\n1,2\n3,"secret\n', "line 3: a quoted cell does not end"),
        ("t.csv.gz", gzip.compress(b"a,b\n" + os.urandom(4000).hex().encode())[:900], "not a whole gzip file"),
        ("t.csv.gz", b"a,b\n1,2\n", "not a whole gzip file"),
        ("t.jsonl", b'{"a": 1, "b": 2}\n{"a": "secret', "line 2: not a JSON object"),
        ("t.jsonl", b'["secret"]\n', "line 1: not a JSON object"),
        ("t.jsonl", b'{"a": "secret"}\n', "column 'b' is missing"),
        ("t.parquet", b"PAR1secret", "not a whole Parquet file"),
        ("t.xls", b"", "what kind of table"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_without_its_content(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_table(path, columns=["a", "b"])
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "secret" not in text
    assert "\n" not in text


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: the table cannot be read: No such file"):
        read_table(tmp_path / "t.csv", columns=["a"])
    with pytest.raises(DataError, match="cannot be read"):
        read_table(tmp_path, columns=["a"], form="csv")


def test_a_table_is_read_once_until_it_changes(tmp_path):
    path = _csv(tmp_path / "t.csv", [["a"], ["1"]])
    first = read_table(path, columns=["a"])
    assert read_table(path, columns=["a"]) is first
    before = fingerprint([path])
    _csv(path, [["a"], ["1"], ["2"]])
    assert len(read_table(path, columns=["a"]).rows) == 2
    assert fingerprint([path]) != before


def test_a_fingerprint_tells_which_file_is_missing(tmp_path):
    one = _csv(tmp_path / "1.csv", [["a"]])
    other = tmp_path / "2.csv"
    assert fingerprint([one, other]) != fingerprint([other, one])
    assert fingerprint([one, None]) == fingerprint([one, other])


def test_find_table_takes_the_unpacked_form_first(tmp_path):
    assert find_table(tmp_path, "a.csv") is None
    (tmp_path / "b.csv.gz").touch()
    assert find_table(tmp_path, "a.csv", "b.csv") == tmp_path / "b.csv.gz"
    (tmp_path / "b.csv").touch()
    assert find_table(tmp_path, "a.csv", "b.csv") == tmp_path / "b.csv"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "..\\x", "C:\\x", "", " ", "a\0b"])
def test_names_that_lead_out_are_refused_and_not_repeated(name, tmp_path):
    with pytest.raises(DataError) as caught:
        inside(tmp_path, name)
    assert "etc" not in str(caught.value)


def test_names_inside_are_taken(tmp_path):
    assert inside(tmp_path, "files/p10/a..b.jpg") == tmp_path / "files" / "p10" / "a..b.jpg"


def test_read_json_says_where_it_broke(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b'{"a": [1]}'))
    assert read_json(tmp_path / "a.json.gz") == {"a": [1]}
    for content, message in ((b'{"a":\n [1, "secret', "line 2: not JSON"), (b"[" * 100_000, "deep|not JSON")):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_json(tmp_path / "b.json")
        assert "secret" not in str(caught.value)
