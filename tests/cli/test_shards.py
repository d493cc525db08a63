import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vlp.cli.shards import app
from vlp.data import open_shards
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


def _damage(folder: Path) -> str:
    """Takes the first study's image; returns its key."""
    manifest = json.loads((folder / "manifest.json").read_text())
    sample = manifest["shards"][0]["samples"][0]
    with (folder / "train-000000.tar").open("r+b") as file:
        file.seek(sample["members"]["jpg"][0])
        file.write(b"no image")
    return str(sample["key"])


def test_repair_says_what_is_lost_and_ends_with_status_0(folder):
    key = _damage(folder)
    result = _run("check", folder, "--repair")
    assert result.exit_code == 0
    assert "1 studies lost" in result.output
    assert key in result.output
    assert "train-000000.tar: written anew; what was there is train-000000.tar.damaged" in result.output
    assert "2 studies kept although its checksum was wrong" in result.output
    assert _run("check", folder).exit_code == 0
    assert "nothing to repair" in _run("check", folder, "--repair").output


def test_repair_for_programs_and_what_it_leaves(folder):
    key = _damage(folder)
    (folder / "train-000007.tar").write_bytes(b"")
    result = _run("check", folder, "--repair", "--json")
    assert result.exit_code == 1
    facts = json.loads(result.stdout)
    assert facts["ok"] is False
    assert [lost["key"] for lost in facts["lost"]] == [key]
    assert [fault["code"] for fault in facts["left"]] == ["unknown_file"]
    assert facts["unproven"] == {"train-000000.tar": 2}
    assert "left, not to be repaired here" in _run("check", folder, "--repair").output


def test_hostile_shards_are_named(folder):
    with tarfile.open(folder / "train-000000.tar", "a") as tar:
        header = tarfile.TarInfo("../evil.pkl")
        tar.addfile(header, io.BytesIO())
    result = _run("check", folder)
    assert result.exit_code == 1
    assert "hostile_path" in result.output
    assert isinstance(_run("stats", folder).exception, DataError)


def test_stats_count_findings_per_split_and_name_no_patient(folder):
    result = _run("stats", folder)
    assert result.exit_code == 0
    assert "2 / 1 / 0" in result.output
    assert "1 / 0 / 0" in result.output
    facts = json.loads(_run("stats", folder, "--json").stdout)
    assert facts["splits"]["train"]["findings"] == {"mass": {"present": 2, "uncertain": 1}}
    assert "person-" not in json.dumps(facts)


def test_stats_write_a_data_card(folder, tmp_path):
    for name in ("card.png", "card.md"):
        result = _run("stats", folder, "--out", tmp_path / name)
        assert result.exit_code == 0
        assert f"{tmp_path / name}: data card" in result.output
    with Image.open(tmp_path / "card.png") as picture:
        assert picture.format == "PNG"
    assert "| mass |" in (tmp_path / "card.md").read_text()
    facts = json.loads(_run("stats", folder, "--json").stdout)
    assert facts["card"]["splits"]["train"]["studies"] == 3
    assert isinstance(_run("stats", folder, "--out", tmp_path / "card.pdf").exception, DataError)


def _copy_of(folder: Path, name: str, *, split: str) -> Path:
    """Other shards with one image of `folder`, darker."""
    reader = open_shards(folder)
    pixels = (reader.image(reader.keys("train")[0]) * 0.9).astype(np.uint8)
    image = ImageFile(id="i", path=None, view="PA", rows=16, columns=16)
    study = Study(id="other", person=Person(id="other"), images=(image,), source="made there", split=split)
    with ShardWriter(folder.parent / name) as writer:
        writer.write(LoadedStudy(study=study, pixels=(pixels,)))
    return folder.parent / name


def test_duplicates_across_folders_and_leaks(folder):
    alone = _run("duplicates", folder)
    assert alone.exit_code == 0
    assert "4 images looked at; none is there twice" in alone.output
    same_split = _run("duplicates", folder, _copy_of(folder, "again", split="train"), "--kind", "image")
    assert same_split.exit_code == 0
    assert "1 of them copies of another, in 1 groups" in same_split.output
    leaking = _copy_of(folder, "leaking", split="test")
    leak = _run("duplicates", folder, leaking)
    assert leak.exit_code == 1
    assert "1 images are in more than one split" in leak.output
    facts = json.loads(_run("duplicates", folder, leaking, "--json").stdout)
    assert facts["leaks"] == 1
    assert facts["groups"][0]["splits"] == ["test", "train"]
    assert isinstance(_run("duplicates", folder, folder).exception, DataError)


def test_overlap_of_two_folders(folder, tmp_path):
    assert _run("overlap", folder, folder).exit_code == 0
    result = _run("overlap", folder, folder, "--split", "train")
    assert result.exit_code == 1
    assert "training has seen: 3 persons, 3 studies" in result.output
    other = _copy_of(folder, "other", split="test")
    facts = json.loads(_run("overlap", folder, other, "--json").stdout)
    assert facts == {"shared": {"persons": 0, "studies": 0, "images": 0, "reports": 0}, "known": []}
    shutil.copytree(folder, tmp_path / "moved")
    assert "the figures hold only if" in _run("overlap", folder, tmp_path / "moved").output


def test_preview_writes_beside_the_folder_or_where_told(folder, tmp_path):
    result = _run("preview", folder)
    assert result.exit_code == 0
    with Image.open(tmp_path / "shards-preview.png") as picture:
        assert picture.format == "PNG"
    facts = json.loads(_run("preview", folder, "--split", "test", "--out", tmp_path / "x.png", "--json").stdout)
    assert facts == {"file": str(tmp_path / "x.png"), "studies": 1}
    assert not list(folder.glob("*.png"))


@pytest.mark.parametrize("verb", ["check", "stats", "preview", "duplicates"])
def test_no_shards_there(verb, tmp_path):
    result = _run(verb, tmp_path)
    assert isinstance(result.exception, DataError)
    assert "not a folder of shards" in str(result.exception)
