import json
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.train.conftest import TINY_MODEL
from vlp.cli.demo import _example_image, _next_steps, demo
from vlp.data import open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import ConfigError
from vlp.ingest.images import read_image
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Study

app = typer.Typer()
app.command()(demo)


def _study(number: int, *, split: str, effusion: Certainty) -> LoadedStudy:
    study = Study(
        id=f"study-{number}",
        person=Person(id=f"person-{number}"),
        images=(ImageFile(id=f"image-{number}", path=None, view="PA", rows=32, columns=32),),
        labels={"pleural effusion": effusion},
        source="random",
        split=split,  # type: ignore[arg-type]
    )
    return LoadedStudy(study=study, pixels=(np.full((32, 32), 10 * number, dtype=np.uint8),))


def _shards(folder: Path, *effusion: Certainty) -> Path:
    with ShardWriter(folder, image_format="png") as writer:
        writer.write(_study(9, split="train", effusion=Certainty.PRESENT))
        for number, certainty in enumerate(effusion, start=1):
            writer.write(_study(number, split="test", effusion=certainty))
    return folder


@pytest.mark.parametrize(
    ("effusion", "chosen"),
    [
        ((Certainty.ABSENT, Certainty.UNCERTAIN, Certainty.PRESENT, Certainty.PRESENT), 3),
        ((Certainty.ABSENT, Certainty.UNCERTAIN), 1),
    ],
)
def test_the_example_is_a_held_out_study_with_the_finding_or_the_first(
    tmp_path: Path, effusion: tuple[Certainty, ...], chosen: int
) -> None:
    reader = open_shards(_shards(tmp_path / "shards", *effusion))
    path, person = _example_image(reader, tmp_path)
    assert person in {study.person.id for study in reader.studies("test")}
    assert path == tmp_path / "example.png"
    assert np.asarray(Image.open(path))[0, 0] == 10 * chosen
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["example.png", "shards"]


def test_next_steps_are_whole_commands() -> None:
    shown = _next_steps(
        Path("runs/demo/checkpoints/final"), Path("runs/demo/index"), Path("runs/demo/example.jpg"), "phantom-000001"
    )
    commands = [line.strip() for line in shown.splitlines()[1:]]
    assert len(commands) in (3, 4)
    assert all(command.startswith("vlp ") for command in commands)
    assert 'vlp ground runs/demo/checkpoints/final runs/demo/example.jpg "There is pleural effusion."' in commands


def test_a_folder_without_configurations_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder; run this from the project's root"):
        demo(configs=tmp_path / "configs")
    (tmp_path / "configs").mkdir()
    with pytest.raises(ConfigError, match=r"ingest/demo\.yaml: cannot read the configuration"):
        demo(configs=tmp_path / "configs")
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """The demonstration's three configurations, as small as they can be."""
    run = tmp_path / "run"
    values = {
        "ingest": {
            "source": {"kind": "phantom", "patients": 16, "size_px": 64, "history": {"max_studies": 2}},
            "output": str(run / "shards"),
            "splits": {"train": 0.4, "val": 0.3, "test": 0.3},
            "workers": 0,
        },
        "train": {
            "output": str(run),
            "shards": str(run / "shards"),
            "model": TINY_MODEL | {"text": TINY_MODEL["text"] | {"max_tokens": 128}},  # it reads letter by letter
            "objective": {"kind": "multi_positive_nce"},
            "loader": {"batch_studies": 4, "workers": 0},
            "max_steps": 3,
            "zero_shot": {"every": 3, "min_positives": 1},
            "wandb": {"mode": "disabled"},
        },
        "evaluate": {
            "checkpoint": str(run / "checkpoints" / "final"),
            "shards": str(run / "shards"),
            "output": str(run),
            "findings": ["pleural effusion", "cardiomegaly"],
            "resamples": 100,
            "examples": 1,
        },
    }
    folder = tmp_path / "configs"
    for kind, content in values.items():
        path = folder / kind / "demo.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(yaml.safe_dump(content))
    return folder


def test_from_nothing_to_a_report_and_again(configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run = tmp_path / "run"
    done = CliRunner().invoke(app, ["--configs", str(configs)], catch_exceptions=False)
    assert done.exit_code == 0
    stages = [line[:5] for line in done.stderr.splitlines() if line.startswith("[")]
    assert stages == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    results = json.loads((run / "results.json").read_text())
    assert {row["task"] for row in results} >= {"classification", "retrieval"}
    assert (run / "report.html").stat().st_size > 10_000
    assert f"Report: {run / 'report.html'}" in done.stdout.replace("\n", " ")
    assert "auroc" in done.stdout
    assert "not a medical device" in done.stdout
    assert f"vlp classify {run / 'checkpoints' / 'final'} {run / 'example.jpg'}" in done.stdout
    assert read_image(run / "example.jpg")[1].shape == (64, 64)

    shards = (run / "shards" / "manifest.json").stat().st_mtime_ns
    weights = (run / "checkpoints" / "final" / "weights.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(app, ["--configs", str(configs)], catch_exceptions=False)
    assert again.exit_code == 0
    assert (run / "shards" / "manifest.json").stat().st_mtime_ns == shards
    assert (run / "checkpoints" / "final" / "weights.safetensors").stat().st_mtime_ns == weights
    assert [row["value"] for row in json.loads((run / "results.json").read_text())] == [row["value"] for row in results]
