import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vlp.data.reader import open_shards
from vlp.data.validate import check
from vlp.data.writer import ShardWriter, encode_study
from vlp.errors import DataError


def _write(folder: Path, studies, **settings) -> ShardWriter:
    with ShardWriter(folder, **settings) as writer:
        for study in studies:
            writer.write(study)
    return writer


def _contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_the_same_studies_give_the_same_bytes(make_study, tmp_path):
    for name in ("a", "b"):
        _write(tmp_path / name, [make_study(number) for number in range(3)], samples_per_shard=2)
    assert _contents(tmp_path / "a") == _contents(tmp_path / "b")
    assert sorted(_contents(tmp_path / "a")) == ["manifest.json", "train-000000.tar", "train-000001.tar"]


def test_members_are_plain_and_in_order(make_study, tmp_path):
    writer = _write(tmp_path / "s", [make_study(1, views=("lateral", "PA")), make_study(2)])
    with tarfile.open(tmp_path / "s" / "train-000000.tar") as tar:
        members = tar.getmembers()
    keys = [sample.key for sample in writer.manifest.shards[0].samples]
    suffixes = (("jpg", "view1.jpg", "txt", "json"), ("jpg", "txt", "json"))
    assert [member.name for member in members] == [
        f"{key}.{suffix}" for key, group in zip(keys, suffixes, strict=True) for suffix in group
    ]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }
    places = {
        f"{s.key}.{suffix}": place for s in writer.manifest.shards[0].samples for suffix, place in s.members.items()
    }
    assert places == {member.name: (member.offset_data, member.size) for member in members}


def test_the_first_frontal_image_comes_first(make_study):
    loaded = make_study(1, views=("lateral", "AP", "PA"))
    encoded = encode_study(loaded, image_format="png")
    assert [image.view for image in encoded.study.images] == ["AP", "lateral", "PA"]
    assert encode_study(make_study(1, views=("lateral", "other"))).study.images[0].view == "lateral"


def test_png_keeps_every_pixel(make_study, tmp_path):
    loaded = make_study(3)
    _write(tmp_path / "s", [loaded], image_format="png")
    reader = open_shards(tmp_path / "s")
    assert np.array_equal(reader.image(reader.keys()[0], 0), loaded.pixels[0])


def test_a_patient_in_two_splits_stops_everything(make_study, tmp_path):
    with pytest.raises(DataError, match="two splits"):
        _write(tmp_path / "s", [make_study(1, person="p"), make_study(2, person="p", split="test")])
    assert list(tmp_path.iterdir()) == []


def test_the_same_study_twice_is_refused(make_study, tmp_path):
    with pytest.raises(DataError, match="twice"):
        _write(tmp_path / "s", [make_study(1), make_study(1)])


def test_nothing_is_left_of_a_broken_off_run_and_the_old_shards_stay(make_study, tmp_path):
    folder = tmp_path / "s"
    _write(folder, [make_study(1)])
    before = _contents(folder)

    def broken():
        yield make_study(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _write(folder, broken())
    assert _contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_shards_are_replaced_by_shards_and_what_a_killed_run_left_is_cleared(make_study, tmp_path):
    folder = tmp_path / "s"
    _write(folder, [make_study(number) for number in range(5)], samples_per_shard=1)
    (tmp_path / ".s.partial-999999999").mkdir()
    _write(folder, [make_study(7)])
    assert sorted(_contents(folder)) == ["manifest.json", "train-000000.tar"]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert check(folder) == []


def test_other_folders_are_left_alone(make_study, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("precious")
    with pytest.raises(DataError, match="no folder of shards"):
        _write(folder, [make_study(1)])
    assert (folder / "chapter.txt").read_text() == "precious"


def test_no_study_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no study"):
        _write(tmp_path / "s", [])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_plain_error(make_study, tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DataError, match="No space left"):
        _write(tmp_path / "s", [make_study(1)])
    assert list(tmp_path.iterdir()) == []


def test_shards_beside_something_else_are_not_replaced(make_study, tmp_path):
    folder = tmp_path / "s"
    _write(folder, [make_study(1)])
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(DataError, match=r"holds notes\.txt beside its shards"):
        _write(folder, [make_study(2)])
    assert (folder / "notes.txt").read_text() == "precious"


def test_folders_above_are_taken_back_where_nothing_was_written(make_study, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="no study"):
        _write(tmp_path / "there" / "a" / "b" / "s", [])
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    _write(tmp_path / "there" / "a" / "b" / "s", [make_study(1)])
    assert check(tmp_path / "there" / "a" / "b" / "s") == []
