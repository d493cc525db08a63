import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlp.cli.shards import app
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.records import Certainty, ImageFile, LoadedStudy, Person, Study


@pytest.fixture
def folder(tmp_path) -> Path:
    with ShardWriter(tmp_path / "shards") as writer:
        for number in range(4):
            image = ImageFile(id="i", path=None, view="PA", rows=16, columns=16)
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
            labels = {"mass": Certainty.PRESENT if number else Certainty.UNCERTAIN}
            study = Study(
                id=f"s{number}",
                person=Person(id=f"person-{number}"),
                images=(image,),
                labels=labels,
                source="made here",
                split="train" if number < 3 else "test",
            )
            writer.write(LoadedStudy(study=study, pixels=(pixels,)))
    return tmp_path / "shards"


def _run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_check_of_good_shards(folder):
    result = _run("check", folder)
    assert result.exit_code == 0
    assert "every shard is as it was written" in result.output
    assert json.loads(_run("check", folder, "--json").stdout) == {"folder": str(folder), "ok": True, "faults": []}


def test_check_of_damaged_shards_ends_with_status_1(folder):
    with (folder / "train-000000.tar").open("r+b") as file:
        file.seek(600)
        file.write(b"damage")
    result = _run("check", folder)
    assert result.exit_code == 1
    assert "sha256" in result.output
    faults = json.loads(_run("check", folder, "--json").stdout)["faults"]
    assert {"sha256", "train-000000.tar"} <= {value for fault in faults for value in fault.values()}


def test_stats_count_findings_per_split_and_name_no_patient(folder):
    result = _run("stats", folder)
    assert result.exit_code == 0
    assert "2 / 1 / 0" in result.output
    assert "1 / 0 / 0" in result.output
    facts = json.loads(_run("stats", folder, "--json").stdout)
    assert facts["splits"]["train"]["findings"] == {"mass": {"present": 2, "uncertain": 1}}
    assert "person-" not in json.dumps(facts)


def test_preview_writes_beside_the_folder_or_where_told(folder, tmp_path):
    result = _run("preview", folder)
    assert result.exit_code == 0
    with Image.open(tmp_path / "shards-preview.png") as picture:
        assert picture.format == "PNG"
    facts = json.loads(_run("preview", folder, "--split", "test", "--out", tmp_path / "x.png", "--json").stdout)
    assert facts == {"file": str(tmp_path / "x.png"), "studies": 1}
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize("verb", ["check", "stats", "preview"])
def test_no_shards_there(verb, tmp_path):
    result = _run(verb, tmp_path)
    assert isinstance(result.exception, DataError)
    assert "not a folder of shards" in str(result.exception)
