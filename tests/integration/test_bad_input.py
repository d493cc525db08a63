"""What a person can get wrong, through the command itself: one plain line, exit status 2, and nothing left behind."""

import hashlib
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.inference.conftest import save_tiny
from tests.train.conftest import tiny_values
from vlp.cli.main import main
from vlp.data import open_shards

Command = Callable[..., tuple[int, str, str]]
Snapshot = dict[str, str]
REPORT = "FINDINGS: There is no pneumothorax. Small left pleural effusion."


@pytest.fixture
def vlp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process; gives (exit status, stdout, stderr)."""

    def vlp(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vlp", *map(str, arguments)])
        monkeypatch.setattr(logging.getLogger("vlp"), "handlers", [])  # else it speaks to an earlier test's stderr
        monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return vlp


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command writes "here" would be seen."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny", "similarity_attention")


def snapshot(folder: Path) -> Snapshot:
    """Every file and folder below `folder`, hidden ones too, and what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def write_image(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 40), dtype=np.uint8)).save(path)
    return path


def archive(folder: Path, *texts: str, split: str | None = None) -> Path:
    """An archive of one study per text, and the configuration that makes shards of it."""
    rows = []
    for number, text in enumerate(texts):
        write_image(folder / "archive" / f"{number}.png", number)
        rows.append({"file": f"{number}.png", "study_id": f"s{number}", "patient_id": f"p{number}", "view": "PA",
                     "text": text, "split": split})  # fmt: skip
    (folder / "archive").mkdir(exist_ok=True)
    (folder / "archive" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "ingest.yaml"
    recipe.write_text(
        f"source: {{kind: folder, path: {folder / 'archive'}}}\noutput: {folder / 'shards'}\nworkers: 0\n"
    )
    return recipe


def one_line(result: tuple[int, str, str], *words: str) -> None:
    """Asserts the plain failure: status 2, nothing on stdout, one error line that says `words`."""
    status, out, err = result
    errors = [line for line in err.splitlines() if not line[:2].isdigit()]  # log lines begin with the time
    assert status == 2, err
    assert out == ""
    assert len(errors) == 1, err
    assert errors[0].startswith("error: ")
    for word in words:
        assert word in errors[0]
    assert "Traceback" not in err


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_IMAGES = [
    pytest.param(Path.unlink, "cannot be read: No such file", id="missing"),
    pytest.param(truncate, "truncated", id="truncated"),
    pytest.param(lambda path: path.write_bytes(b""), "the file is empty", id="0-byte"),
    pytest.param(lambda path: path.write_text("These are words."), "not an image", id="no image"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_IMAGES)
def test_an_archive_with_a_bad_image(vlp: Command, tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    recipe = archive(tmp_path, REPORT, REPORT)
    spoil(tmp_path / "archive" / "1.png")
    before = snapshot(tmp_path)
    one_line(vlp("ingest", recipe), "1 of 2 studies cannot be used", "line 2", words)
    assert snapshot(tmp_path) == before


def test_an_empty_archive_and_none_at_all(vlp: Command, tmp_path: Path) -> None:
    recipe = archive(tmp_path)
    before = snapshot(tmp_path)
    one_line(vlp("ingest", recipe), "manifest.jsonl", "is it empty")
    assert snapshot(tmp_path) == before
    (tmp_path / "archive" / "manifest.jsonl").unlink()
    one_line(vlp("ingest", recipe), "manifest.jsonl", "cannot be read")
    assert not (tmp_path / "shards").exists()


def test_a_study_without_a_sentence_is_kept_counted_and_told(vlp: Command, tmp_path: Path) -> None:
    recipe = archive(tmp_path, REPORT, "", split="train")
    status, out, err = vlp("ingest", recipe, "--json")
    assert status == 0
    assert json.loads(out)["splits"]["train"]["studies"] == 2
    assert json.loads(out)["splits"]["train"]["without_sentences"] == 1
    assert "1 of 2 studies have no sentence; training leaves them out" in err
    assert len(open_shards(tmp_path / "shards")) == 2


def test_an_archive_of_nothing_but_studies_without_a_sentence(vlp: Command, tmp_path: Path) -> None:
    recipe = archive(tmp_path, "", "  ")
    before = snapshot(tmp_path)
    one_line(vlp("ingest", recipe), "none of the 2 studies has a sentence to train on")
    assert snapshot(tmp_path) == before


def test_training_on_a_split_without_a_sentence(vlp: Command, tmp_path: Path) -> None:
    assert vlp("ingest", archive(tmp_path, REPORT, REPORT, split="val"))[0] == 0
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tiny_values(tmp_path / "shards", tmp_path / "run")))
    before = snapshot(tmp_path)
    one_line(vlp("train", tmp_path / "train.yaml"), "split train has no study to use")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("verb", ["ingest", "train", "evaluate"])
def test_an_unknown_configuration_key(vlp: Command, tmp_path: Path, verb: str) -> None:
    path = tmp_path / f"{verb}.yaml"
    values = {
        "ingest": {"source": {"kind": "phantom"}, "output": str(tmp_path / "shards")},
        "train": tiny_values(tmp_path / "shards", tmp_path / "run"),
        "evaluate": {"checkpoint": "c", "shards": "s", "output": str(tmp_path / "results")},
    }
    path.write_text(yaml.safe_dump(values[verb] | {"otuput": "x"}))
    before = snapshot(tmp_path)
    one_line(vlp(verb, path), str(path), "otuput: unknown key; did you mean 'output'?")
    assert snapshot(tmp_path) == before


def asking(verb: str, checkpoint: Path, image: Path) -> tuple[object, ...]:
    return {
        "classify": ("classify", checkpoint, image),
        "ground": ("ground", checkpoint, image, "There is pleural effusion."),
        "search": ("index", "search", "index", "--checkpoint", checkpoint, "--image", image),
    }[verb]


@pytest.mark.parametrize(("spoil", "words"), BAD_IMAGES)
@pytest.mark.parametrize("verb", ["classify", "ground"])
def test_a_bad_image_to_ask_about(
    vlp: Command, tmp_path: Path, model: Path, verb: str, spoil: Callable[[Path], None], words: str
) -> None:
    image = write_image(tmp_path / "chest.png")
    spoil(image)
    before = snapshot(tmp_path)
    one_line(vlp(*asking(verb, model, image)), "chest.png", words)
    assert snapshot(tmp_path) == before


def other_design(folder: Path) -> None:
    text = (folder / "config.yaml").read_text()
    assert "dim: 24" in text
    (folder / "config.yaml").write_text(text.replace("dim: 24", "dim: 32"))


def other_format(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"format": 99}))


BAD_CHECKPOINTS = [
    pytest.param(other_design, "of another design", id="design"),
    pytest.param(other_format, "another format", id="format"),
    pytest.param(lambda folder: truncate(folder / "weights.safetensors"), "damaged", id="truncated"),
    pytest.param(shutil.rmtree, "no checkpoint here", id="missing"),
]


@pytest.mark.parametrize(("spoil", "words"), BAD_CHECKPOINTS)
@pytest.mark.parametrize("verb", ["classify", "ground", "build", "evaluate"])
def test_a_checkpoint_that_is_not_what_it_says(
    vlp: Command, tmp_path: Path, model: Path, verb: str, spoil: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    spoil(folder)
    if verb in ("classify", "ground"):
        arguments = asking(verb, folder, write_image(tmp_path / "chest.png"))
    else:
        assert vlp("ingest", archive(tmp_path, REPORT, REPORT, split="test"))[0] == 0
        evaluation = {"checkpoint": str(folder), "shards": str(tmp_path / "shards"), "output": str(tmp_path / "out")}
        (tmp_path / "evaluate.yaml").write_text(yaml.safe_dump(evaluation))
        arguments = {
            "build": ("index", "build", folder, tmp_path / "shards", tmp_path / "index"),
            "evaluate": ("evaluate", tmp_path / "evaluate.yaml"),
        }[verb]
    before = snapshot(tmp_path)
    one_line(vlp(*arguments), words)
    assert snapshot(tmp_path) == before


def test_no_index_to_search(vlp: Command, tmp_path: Path, model: Path) -> None:
    image = write_image(tmp_path / "chest.png")
    before = snapshot(tmp_path)
    one_line(vlp(*asking("search", model, image)), "index")
    assert snapshot(tmp_path) == before


def test_the_installed_command_says_the_same(tmp_path: Path) -> None:
    (tmp_path / "chest.png").write_bytes(b"")
    before = snapshot(tmp_path)
    done = subprocess.run(
        [str(Path(sys.executable).parent / "vlp"), "classify", "nowhere", "chest.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    one_line((done.returncode, done.stdout, done.stderr), "chest.png", "the file is empty")
    assert snapshot(tmp_path) == before
