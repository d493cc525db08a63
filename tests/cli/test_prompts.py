import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vlp.cli.prompts import app
from vlp.errors import ConfigError, DataError
from vlp.prompts.descriptors import PACKAGE_FILE, load_descriptors
from vlp.prompts.protocols import PROTOCOLS


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_names_every_protocol_and_finding() -> None:
    done = run("list")
    assert done.exit_code == 0, done.output
    known = load_descriptors()
    assert all(name in done.stdout for name in (*PROTOCOLS, *known.findings, known.digest))
    assert "not reviewed by a radiologist" in done.stdout
    assert "not a medical device" in done.stdout


def test_list_for_programs() -> None:
    values = json.loads(run("list", "--json").stdout)
    assert list(values["protocols"]) == list(PROTOCOLS)
    assert values["descriptors"]["digest"] == load_descriptors().digest
    assert values["descriptors"]["findings"]["nodule"] == 3
    assert values["templates"]["name"] == ["{noun}", "no {noun}"]


def test_show_gives_the_very_sentences() -> None:
    done = run("show", "chexzero", "Effusion", "pneumonia")
    assert done.exit_code == 0, done.output
    assert "no Pleural Effusion" in done.stdout
    assert "no Pneumonia" in done.stdout
    assert "one checkpoint, not the mean over ten" in done.stdout, "what differs from the paper is said"
    values = json.loads(run("show", "xplainer", "Effusion", "no finding", "--json").stdout)
    asks = PROTOCOLS["xplainer"].pairs("pleural effusion", load_descriptors())
    assert [ask["positives"] for ask in values["pleural effusion"]] == [list(ask.positives) for ask in asks]
    assert values["no finding"] == []
    assert "1 - the highest of the others" in run("show", "xplainer", "no finding").stdout


def test_show_without_findings_gives_all_of_them() -> None:
    assert list(json.loads(run("show", "radzero", "--json").stdout)) == list(load_descriptors().findings)


def test_show_paraphrases() -> None:
    done = run("show", "paraphrases", "mass")
    assert done.exit_code == 0, done.output
    assert "The chest radiograph shows a mass." in done.stdout


def test_show_what_nobody_knows() -> None:
    assert isinstance(run("show", "explainer").exception, ConfigError)
    assert isinstance(run("show", "vlp", "xyzzy").exception, DataError)


def test_lint_of_the_package_has_no_error() -> None:
    done = run("lint")
    assert done.exit_code == 0, done.output
    assert "0 errors, 1 warnings" in done.stdout


def test_lint_ends_with_1_where_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(PACKAGE_FILE.read_text(encoding="utf-8").replace("There is a {text}", "there is a {text}"))
    done = run("lint", path)
    assert done.exit_code == 1
    assert "is no sentence" in done.stdout
    faults = json.loads(run("lint", path, "--json").stdout)
    assert {fault["severity"] for fault in faults} == {"error", "warning"}
    assert set(faults[0]) == {"severity", "where", "what", "advice"}


@pytest.mark.parametrize(("text", "status"), [("There is a mass.", 0), ("knee", 0), ("", 1), ("胸水", 1)])
def test_check_ends_with_1_where_a_prompt_would_be_refused(text: str, status: int) -> None:
    assert run("check", text).exit_code == status


def test_check_says_what_it_made_of_each() -> None:
    done = run("check", "no mass on the left", "knee")
    for expected in ("absent", "left", "negated", "impossible_anatomy"):
        assert expected in done.stdout
    first, second = json.loads(run("check", "no mass on the left", "a mass", "--json").stdout)
    assert (first["findings"], first["negated"], first["side"]) == (["mass"], True, "left")
    assert second["notes"] == []


def test_check_shows_hostile_text_as_text() -> None:
    done = run("check", "\x1b[31m<b>mass</b> [red]x[/red] {{ 1 }}\u202e\nforged")
    assert done.exit_code == 0, done.output
    assert "\x1b[31m" not in done.stdout
    assert "\u202e" not in done.stdout
    assert "<b>mass</b>" in done.stdout
