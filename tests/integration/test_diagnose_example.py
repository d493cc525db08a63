"""What docs/how-to/diagnose.md shows is what happens."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from tests.inference.conftest import save_tiny
from vlp.cli.classify import classify
from vlp.inference.classify import weigh
from vlp.inference.engine import load
from vlp.inference.statement import unmatched

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "diagnose.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page speaks of."""
    save_tiny(tmp_path / "runs" / "demo" / "checkpoints" / "final", "similarity_attention")
    rng = np.random.default_rng(3)
    for name in ("chest.png", "pa.png", "lateral.png"):
        Image.fromarray(rng.integers(0, 256, size=(80, 70)).astype(np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(blocks[0].strip().splitlines()) - 2 == 3  # import and blank line apart, as its heading says
    names: dict[str, object] = {}
    exec(blocks[0], names)
    statements = capsys.readouterr().out.splitlines()
    engine = load(here / "runs" / "demo")
    expected = weigh(engine, engine.features(["chest.png"])[0]).diagnoses()[0]
    assert len(statements) == len(expected.findings)
    assert statements[0].startswith(f"{expected.ranked()[0].finding.capitalize()}: similarity")
    exec(blocks[1], names)
    shown, _, rest = capsys.readouterr().out.partition("\n}\n")
    content = json.loads(shown + "}")
    assert not [fault for finding in content["findings"] for fault in unmatched(finding)]
    assert len(rest.splitlines()) == len(content["findings"][0]["descriptors"])


def test_the_command_lines_of_the_page_are_understood() -> None:
    app = typer.Typer(add_completion=False)
    app.command()(classify)
    command = typer.main.get_command(app)
    lines = [line.partition("#")[0] for line in PAGE.splitlines() if line.startswith("vlp classify")]
    assert len(lines) >= 8
    shown = set()
    for line in lines:
        words = shlex.split(line)[2:]
        with command.make_context("classify", list(words)) as context:
            assert context.params["checkpoint"] == Path("runs/demo")
        shown |= {word for word in words if word.startswith("-")}
    offered = {name for parameter in command.params for name in parameter.opts if name.startswith("--")}
    left_out = {"--descriptors", "--prompts", "--device", "--json", "--output", "--help"}
    assert offered - left_out <= shown


def test_every_key_of_the_answer_is_on_the_page(here: Path) -> None:
    content = load("runs/demo").classify("chest.png", findings=["nodule"]).to_json()
    rows = [row.split("|")[1:3] for row in PAGE.partition("## The JSON")[2].splitlines() if row.startswith("| ")]
    words = {word.strip(" ,;:()") for row in rows for cell in row for word in cell.split()}
    finding = content["findings"][0]
    keys = {*content, *finding, *finding["descriptors"][0], *finding["contrast"], *finding["statement"]}
    keys |= set(content["digests"])
    assert not keys - words
