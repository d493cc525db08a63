import json
from pathlib import Path

import pytest

from vlp.cli.console import BAD_INPUT, FAILED_CHECK, print_facts, print_json, print_table

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


def test_exit_statuses_are_told_apart() -> None:
    assert {0, FAILED_CHECK, BAD_INPUT} == {0, 1, 2}


def test_json_is_one_document_in_the_given_order_and_letters(capsys: Capture) -> None:
    print_json({"z": "derrame pleural pequeño", "a": [1, 2.5, None], "path": Path("runs/demo")})
    out = capsys.readouterr().out
    assert json.loads(out) == {"z": "derrame pleural pequeño", "a": [1, 2.5, None], "path": "runs/demo"}
    assert out.index('"z"') < out.index('"a"')
    assert "pequeño" in out
    assert out.endswith("}\n")


def test_a_table_shows_every_cell_and_the_note(capsys: Capture) -> None:
    print_table("Title", ("finding", "score"), [("nodule", 0.25), ("mass", 0.98765)], note="uncalibrated")
    captured = capsys.readouterr()
    shown = captured.out.splitlines()
    assert shown[0].strip() == "Title"
    for words in ("finding", "score", "nodule", "0.250", "0.988", "uncalibrated"):
        assert words in captured.out
    assert captured.err == ""


def test_numbers_stand_on_the_right_and_words_on_the_left(capsys: Capture) -> None:
    print_table("", ("name", "count"), [("a", 1), ("long name", 12345)])
    rows = [line for line in capsys.readouterr().out.splitlines() if " 1 " in line or "12345" in line]
    ends = [line.rstrip(" │|").rindex(digits) + len(digits) for line, digits in zip(rows, ("1", "12345"), strict=True)]
    assert ends[0] == ends[1]
    starts = [line.index(name) for line, name in zip(rows, ("a", "long name"), strict=True)]
    assert starts[0] == starts[1]


def test_brackets_are_text_not_markup(capsys: Capture) -> None:
    print_table("", ("value [95 % interval]",), [("0.900 [0.800, 0.950]",), ("[red]not red[/red]",)], note="[bold]")
    shown = capsys.readouterr().out
    assert "0.900 [0.800, 0.950]" in shown
    assert "[red]not red[/red]" in shown
    assert "[bold]" in shown
    assert "value [95 % interval]" in shown


def test_a_table_without_rows_still_has_its_columns(capsys: Capture) -> None:
    print_table("Nothing", ("finding", "score"), [])
    assert "finding" in capsys.readouterr().out


def test_facts_are_named_values(capsys: Capture) -> None:
    print_facts("Training", {"steps": 3, "checkpoint": Path("runs/demo")})
    shown = capsys.readouterr().out
    for words in ("Training", "steps", "3", "runs/demo"):
        assert words in shown
