import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from vlp.data import repair as module
from vlp.data.manifest import read_manifest, write_manifest
from vlp.data.reader import open_shards
from vlp.data.repair import Repair, repair
from vlp.data.ustar import BLOCK
from vlp.data.validate import check
from vlp.data.writer import ShardWriter
from vlp.errors import DataError

TAR = "train-000000.tar"


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    return folder


def _keys(folder: Path, shard: str = TAR) -> list[str]:
    return [sample.key for one in read_manifest(folder).shards if one.name == shard for sample in one.samples]


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _overwrite(folder: Path, number: int, suffix: str, content: bytes, *, shard: int = 0) -> str:
    one = read_manifest(folder).shards[shard]
    offset, size = one.samples[number].members[suffix]
    with (folder / one.name).open("r+b") as file:
        file.seek(offset)
        file.write(content[:size].ljust(size, b" "))
    return one.samples[number].key


def _everything(folder: Path) -> dict[str, tuple]:
    reader = open_shards(folder)
    return {
        key: (reader.study(key), *(reader.encoded(key, index) for index in range(reader.num_images(key))))
        for key in reader.keys(None)
    }


def _lost(done: Repair) -> list[tuple[str, str]]:
    return [(lost.shard, lost.key) for lost in done.lost]


def test_good_shards_are_left_alone(copy):
    before = _contents(copy)
    assert repair(copy) == Repair(found=(), lost=(), rewritten=(), removed=(), unproven={}, left=())
    assert _contents(copy) == before


def test_a_damaged_study_is_dropped_and_the_others_stay_as_they_are(copy):
    before = _everything(copy)
    key = _overwrite(copy, 1, "png", b"not an image")
    damaged = (copy / TAR).read_bytes()
    done = repair(copy)
    assert _lost(done) == [(TAR, key)]
    assert "cannot be decoded" in done.lost[0].why
    assert (done.rewritten, done.removed, done.left) == ((TAR,), (), ())
    assert done.unproven == {TAR: 3}
    assert check(copy) == []
    assert _everything(copy) == {name: study for name, study in before.items() if name != key}
    assert (copy / f"{TAR}.damaged").read_bytes() == damaged
    assert read_manifest(copy).faults == {"lost_in_shard": 1}
    assert read_manifest(copy).splits["train"].studies == 10


def test_what_is_rewritten_is_what_the_writer_would_have_written(make_study, tmp_path):
    for name, numbers in (("all", (1, 2, 3)), ("without", (1, 3))):
        with ShardWriter(tmp_path / name) as writer:
            for number in numbers:
                writer.write(make_study(number, views=("lateral", "PA")))
    _overwrite(tmp_path / "all", 1, "txt", b"\xff\xfe")
    assert len(repair(tmp_path / "all").lost) == 1
    assert (tmp_path / "all" / TAR).read_bytes() == (tmp_path / "without" / TAR).read_bytes()
    assert read_manifest(tmp_path / "all").shards == read_manifest(tmp_path / "without").shards


def test_an_image_that_decodes_though_its_middle_is_damaged_is_dropped(make_study, tmp_path):
    folder = tmp_path / "s"
    with ShardWriter(folder) as writer:
        for number in range(3):
            writer.write(make_study(number, size=(400, 320)))
    sample = read_manifest(folder).shards[0].samples[1]
    offset, size = sample.members["jpg"]
    with (folder / TAR).open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(b"x" * 500)
    assert open_shards(folder).image(sample.key).shape == (400, 320)
    assert _lost(repair(folder)) == [(TAR, sample.key)]


def test_a_cut_tar_keeps_what_lies_before_the_cut(copy):
    keys = _keys(copy)
    third = read_manifest(copy).shards[0].samples[2].members["json"][0]
    os.truncate(copy / TAR, third + 10)
    done = repair(copy)
    assert _lost(done) == [(TAR, key) for key in keys[2:]]
    assert _keys(copy) == keys[:2]
    assert check(copy) == []


def test_missing_and_empty_tars_are_taken_off_the_list(copy):
    lost = [*_keys(copy), *_keys(copy, "test-000000.tar")]
    (copy / TAR).unlink()
    (copy / "test-000000.tar").write_bytes(b"")
    done = repair(copy)
    assert [lost.key for lost in done.lost] == lost
    assert done.removed == (TAR, "test-000000.tar")
    assert check(copy) == []
    assert "test" not in read_manifest(copy).splits
    assert sorted(path.name for path in copy.iterdir()) == [
        "manifest.json",
        "test-000000.tar.damaged",
        "train-000001.tar",
        "train-000002.tar",
        "val-000000.tar",
    ]


def test_strangers_are_thrown_out_and_nothing_is_lost(copy):
    before = _everything(copy)
    with tarfile.open(copy / TAR, "a") as tar:
        for name, kind in (("evil.pkl", tarfile.REGTYPE), ("../../evil", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(name)
            header.type = kind
            tar.addfile(header, io.BytesIO(b""))
    done = repair(copy)
    assert (done.lost, done.rewritten) == ((), (TAR,))
    assert check(copy) == []
    assert _everything(copy) == before
    assert (copy / TAR).read_bytes() != (copy / f"{TAR}.damaged").read_bytes()


def test_a_damaged_header_loses_its_study_only(copy):
    first = read_manifest(copy).shards[0]
    with (copy / TAR).open("r+b") as file:
        file.seek(first.samples[1].members["txt"][0] - BLOCK)
        file.write(b"\xff" * 20)
    done = repair(copy)
    assert _lost(done) == [(TAR, first.samples[1].key)]
    assert check(copy) == []


def test_a_manifest_that_is_wrong_about_good_tars_is_put_right(copy):
    """Places, views, counts: the tar's checksum says that the tar is right."""
    before, good = _everything(copy), _contents(copy)
    values = json.loads((copy / "manifest.json").read_text())
    first, second = values["shards"][0]["samples"][:2]
    first["members"]["txt"] = [512, 3]
    second["views"], second["patient"] = ["lateral"], "somebody"
    values["shards"][0]["num_samples"] = 7
    values["licenses"] = {"CC0": 1}
    (copy / "manifest.json").write_text(json.dumps(values, separators=(",", ":")))
    done = repair(copy)
    assert (done.lost, done.rewritten, done.unproven, done.left) == ((), (), {}, ())
    assert _everything(copy) == before
    assert _contents(copy).keys() == good.keys()  # nothing was put aside


def test_keys_and_studies_that_are_there_twice_are_kept_once(make_study, tmp_path):
    folder = tmp_path / "one"
    for salt in ("one", "two"):
        with ShardWriter(tmp_path / salt, salt=salt) as writer:
            writer.write(make_study(1))
            writer.write(make_study(2 if salt == "one" else 3))
    manifest = read_manifest(folder)
    shutil.copy(tmp_path / "two" / TAR, folder / "train-000001.tar")
    shutil.copy(folder / TAR, folder / "train-000002.tar")
    two = read_manifest(tmp_path / "two").shards[0].model_copy(update={"name": "train-000001.tar"})
    three = manifest.shards[0].model_copy(update={"name": "train-000002.tar"})
    write_manifest(manifest.model_copy(update={"shards": (*manifest.shards, two, three)}), folder)
    done = repair(folder)
    assert _lost(done) == [
        ("train-000001.tar", two.samples[0].key),
        *(("train-000002.tar", sample.key) for sample in three.samples),
    ]
    assert done.removed == ("train-000002.tar",)
    assert sorted(study.id for study in open_shards(folder).studies()) == ["study.1", "study.2", "study.3"]


def test_what_it_cannot_decide_is_left_and_listed(copy, make_study, tmp_path):
    with ShardWriter(tmp_path / "other", image_format="png") as writer:
        writer.write(make_study(99, split="test", person="person-1"))
    (copy / "train-000009.tar").write_bytes(b"whose?")
    shutil.copy(tmp_path / "other" / "test-000000.tar", copy / "test-000001.tar")
    manifest = read_manifest(copy)
    leak = read_manifest(tmp_path / "other").shards[0].model_copy(update={"name": "test-000001.tar"})
    write_manifest(manifest.model_copy(update={"shards": (*manifest.shards, leak)}), copy)
    done = repair(copy)
    assert {fault.code for fault in done.left} == {"patient_in_two_splits", "unknown_file"}
    assert done.lost == ()
    assert (copy / "train-000009.tar").read_bytes() == b"whose?"
    assert {fault.code for fault in repair(copy).found} == {"patient_in_two_splits", "unknown_file"}


def test_a_second_repair_keeps_the_first_damaged_tar_too(copy):
    for number, name in enumerate((f"{TAR}.damaged", f"{TAR}.damaged-1")):
        _overwrite(copy, 0, "png", b"not an image %d" % number)
        repair(copy)
        assert (copy / name).is_file()
    assert check(copy) == []


@pytest.mark.parametrize("dies_at", ["os.replace", "write_manifest"])
def test_a_repair_that_is_killed_is_done_again_and_comes_to_the_same(copy, tmp_path, monkeypatch, dies_at):
    _overwrite(copy, 1, "png", b"not an image")
    _overwrite(copy, 0, "json", b"{}", shard=1)
    shutil.copytree(copy, tmp_path / "undisturbed")
    undisturbed = repair(tmp_path / "undisturbed")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if dies_at == "os.replace":
            patch.setattr(module.os, "replace", die)
        else:
            patch.setattr(module, "write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            repair(copy)
    (copy / f".{TAR}.partial").write_bytes(b"left by a kill")
    assert _lost(repair(copy)) == _lost(undisturbed)
    assert check(copy) == []
    same = {TAR, "train-000001.tar", "manifest.json"}
    assert {name: _contents(copy)[name] for name in same} == {
        name: _contents(tmp_path / "undisturbed")[name] for name in same
    }


def test_where_nothing_is_whole_nothing_is_touched(copy):
    for path in copy.glob("*.tar"):
        path.write_bytes(b"")
    before = _contents(copy)
    with pytest.raises(DataError, match="no study of it is whole"):
        repair(copy)
    assert _contents(copy) == before


def test_a_disk_that_is_full_is_one_plain_error_and_nothing_is_gone(copy, monkeypatch):
    _overwrite(copy, 1, "png", b"not an image")
    before = _contents(copy)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(DataError, match="cannot be repaired: No space left"):
        repair(copy)
    assert _contents(copy) == before
