import json
from pathlib import Path

import pytest

from vlp.errors import DataError
from vlp.evaluate.results import find, read_results, result, write_results, write_text
from vlp.metrics.estimate import Estimate

GOOD = Estimate(value=0.123456789, low=0.1, high=0.2, n=9, n_patients=5, n_positive=3, method="how")
MISSING = Estimate(value=None, n=9, n_patients=5, method="how", reason="one_class", undefined=("mass",))


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [result("t", "m", "mass", GOOD, method="score: x"), result("t", "m", "macro", MISSING)]
    write_results(rows, tmp_path)
    assert read_results(tmp_path) == rows
    assert rows[0].text == "0.123 [0.100, 0.200]"
    assert find(rows, task="t", metric="m", finding="macro") == rows[1]
    assert find(rows, task="t", metric="m", finding="nodule") is None


def test_undefined_is_null_and_says_why(tmp_path: Path) -> None:
    write_results([result("t", "m", "macro", MISSING)], tmp_path)
    row = json.loads((tmp_path / "results.json").read_text())[0]
    assert row["value"] is None
    assert row["method"] == "how (95%); left out as undefined: mass; no value: one_class"


@pytest.mark.parametrize("content", [None, "[", "{}", '[{"task": "t"}]', "[1]"])
def test_other_files_are_refused(content: str | None, tmp_path: Path) -> None:
    if content == "{}":
        (tmp_path / "results.json").write_text('{"a": 1}')
    elif content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(DataError, match="not a list of results"):
        read_results(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
