"""What docs/how-to/search.md shows is what happens."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from tests.inference.conftest import save_tiny
from tests.retrieval.conftest import make_study
from vlp.cli.index import app
from vlp.config import validate
from vlp.data.writer import ShardWriter
from vlp.evaluate.config import EvaluateConfig
from vlp.evaluate.retrieval import figures
from vlp.evaluate.retrieval_rankers import WORDS
from vlp.retrieval.draft import NOTE

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "search.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page speaks of."""
    save_tiny(tmp_path / "runs" / "demo" / "checkpoints" / "final", "similarity_attention")
    with ShardWriter(tmp_path / "runs" / "demo" / "shards", image_format="png") as writer:
        for number in range(15):
            writer.write(make_study(number))
    pixels = np.random.default_rng(3).integers(0, 256, size=(80, 70)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_page(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, votes, drafted = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(found, names)
    hits = names["hits"]
    assert len(hits) == 9, "the training studies"  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [hit.key for hit in hits[:5]]  # type: ignore[index]
    exec(votes, names)
    assert names["shares"] == {"pleural effusion": None, "pneumothorax": None}
    assert "pleural effusion None of 0 neighbours" in capsys.readouterr().out
    exec(drafted, names)
    assert capsys.readouterr().out.startswith(NOTE)


def test_the_command_lines_of_the_page_are_understood() -> None:
    group = typer.main.get_command(app)
    lines = re.findall(r"^.*?(vlp index (?:search|build) [^`#\n]*)", PAGE, flags=re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        _, _, verb, *words = shlex.split(line)
        command = group.get_command(None, verb)  # type: ignore[attr-defined]
        with command.make_context(verb, words) as context:
            assert str(context.params["index" if verb == "search" else "checkpoint"]).startswith("runs/demo")


def test_the_evaluation_of_the_page_is_one_and_gives_its_figures() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    settings = validate(EvaluateConfig, yaml.safe_load(block), where="the page")
    assert settings.voters == ("train",)
    assert {"map_at_r", "mrr", "ndcg_at_10", "precision_at_5", "hit_at_1"} <= set(figures(settings))
    assert set(re.findall(r"^\| `_(\w+)` \|", PAGE, flags=re.MULTILINE)) == {"random", *WORDS}
