import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlp.cli.ingest import flow, flow_rows
from vlp.cli.main import app, main
from vlp.data import open_shards


@pytest.fixture
def recipe(tmp_path) -> Path:
    """A configuration of an archive of three studies."""
    archive = tmp_path / "archive"
    archive.mkdir()
    rows = []
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (24, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(archive / f"{number}.png")
        rows.append(
            {"file": f"{number}.png", "study_id": f"s{number}", "patient_id": f"p{number}", "labels": {"Mass": 1}}
        )
    (archive / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = tmp_path / "recipe.yaml"
    path.write_text(f"source: {{kind: folder, path: {archive}}}\noutput: {tmp_path / 'shards'}\nworkers: 0\n")
    return path


def _main(monkeypatch, capsys, *arguments: object) -> tuple[int, str]:
    """Exit status and stderr of the command as a person runs it."""
    monkeypatch.setattr(sys, "argv", ["vlp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0), capsys.readouterr().err


def test_it_writes_shards_and_says_what_they_hold(recipe):
    result = CliRunner().invoke(app, ["ingest", str(recipe)])
    assert result.exit_code == 0, result.output
    assert len(open_shards(recipe.parent / "shards")) == 3
    assert "sentences" in result.output
    assert "3 from labels" in result.output


def test_overrides_output_and_json(recipe, tmp_path):
    arguments = ["ingest", str(recipe), "max_side_px=16", "--output", str(tmp_path / "small"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["folder"] == str(tmp_path / "small")
    assert facts["recipe"]["max_side_px"] == 16
    assert sum(split["studies"] for split in facts["splits"].values()) == 3
    reader = open_shards(tmp_path / "small")
    assert reader.image(reader.keys()[0], 0).shape == (12, 16)


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda archive: (archive / "1.png").unlink(), "line 2: cannot be read: No such file"),
        (
            lambda archive: (archive / "1.png").write_bytes((archive / "1.png").read_bytes()[:300]),
            "line 2: .*truncated",
        ),
        (lambda archive: (archive / "1.png").write_bytes(b""), "line 2: the file is empty"),
        (lambda archive: (archive / "manifest.jsonl").write_text(""), "no image to use"),
        (lambda archive: (archive / "manifest.jsonl").unlink(), "cannot be read: No such file"),
    ],
)
def test_bad_archives_end_with_one_line_and_status_2(recipe, monkeypatch, capsys, break_it, reason):
    import re

    break_it(recipe.parent / "archive")
    status, stderr = _main(monkeypatch, capsys, "ingest", recipe)
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == 2
    assert len(errors) == 1
    assert re.search(reason, errors[0])
    assert "Traceback" not in stderr
    assert sorted(path.name for path in recipe.parent.iterdir()) == ["archive", "recipe.yaml"]


def test_it_says_what_became_of_every_study(recipe):
    (recipe.parent / "archive" / "1.png").write_bytes(b"")
    result = CliRunner().invoke(app, ["ingest", str(recipe), "error_budget=0.5"])
    assert result.exit_code == 0, result.output
    assert f"{recipe.parent}/shards/quarantine.jsonl" in result.output.replace("\n", "")
    table = [line.split() for line in result.output.splitlines()]
    facts = json.loads(CliRunner().invoke(app, ["ingest", str(recipe), "error_budget=0.5", "--json"]).stdout)
    (code,) = facts["faults"]
    for row in (["read", "│", "│", "3"], ["refused", "│", code, "│", "1"], ["written", "│", "│", "2"]):
        assert ["│", *row, "│"] in table
    assert facts["flow"] == {"read": 3, "refused": {code: 1}, "left_out": {}, "written": 2}
    assert facts["quarantine"] == str(recipe.parent / "shards" / "quarantine.jsonl")


def test_the_flow_of_shards_that_nobody_counted_still_adds_up(recipe):
    CliRunner().invoke(app, ["ingest", str(recipe)])
    manifest = open_shards(recipe.parent / "shards").manifest
    older = manifest.model_copy(update={"read": None, "faults": {"bad": 2, "worse": 3}, "left_out": {"excluded": 1}})
    assert flow(older) == {"read": 9, "refused": {"bad": 2, "worse": 3}, "left_out": {"excluded": 1}, "written": 3}
    assert flow_rows(older) == [
        ("read", "", 9),
        ("refused", "worse", 3),
        ("refused", "bad", 2),
        ("left out", "excluded", 1),
        ("written", "", 3),
    ]


def test_parts_and_merge(recipe):
    for number in (1, 2):
        result = CliRunner().invoke(app, ["ingest", str(recipe), f"part={number}/2"])
        assert result.exit_code == 0, result.output
        assert f"part {number}/2 is done" in result.output
        assert "merge=2" in result.output
    result = CliRunner().invoke(app, ["ingest", str(recipe), "merge=2"])
    assert result.exit_code == 0, result.output
    assert len(open_shards(recipe.parent / "shards")) == 3
    assert "vlp shards preview" in result.output


def test_a_url_as_output(recipe, tmp_path):
    url = f"file://{tmp_path}/bucket/shards"
    arguments = ["ingest", str(recipe), f"staging={tmp_path / 'staging'}", "--output", url]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["folder"] == url
    assert len(open_shards(tmp_path / "bucket" / "shards")) == 3
    assert "vlp shards preview" not in CliRunner().invoke(app, arguments).stdout


@pytest.mark.parametrize(
    "override", ["sauce=1", "source.pathh=1", "samples_per_shard=0", "splits.train=2.0", "part=5/4", "merge=0"]
)
def test_unknown_and_impossible_settings(recipe, monkeypatch, capsys, override):
    status, stderr = _main(monkeypatch, capsys, "ingest", recipe, override)
    assert status == 2
    assert override.split("=")[0].split(".")[-1] in stderr
    assert "Traceback" not in stderr


def test_help_needs_no_heavy_library():
    code = (
        "import sys; import vlp.cli.ingest, vlp.cli.shards; "
        "print([m for m in ('torch', 'pydantic', 'numpy', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
