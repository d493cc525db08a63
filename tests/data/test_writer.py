import hashlib
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from vlp.data.journal import Journal
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
    (tmp_path / ".s.partial").mkdir()
    (tmp_path / ".s.partial" / "train-000003.tar").write_bytes(b"half a tar")
    (tmp_path / ".s.journal.jsonl").write_text("half a li")
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

    monkeypatch.setattr("vlp.data.writer._Tar.add", full)
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


def _break_off(folder, studies, journal_path, **settings) -> None:
    """Writes the studies with a journal, and is stopped before the end."""
    with suppress(KeyboardInterrupt), Journal(journal_path) as journal:
        journal.start({})
        with ShardWriter(folder, samples_per_shard=2, journal=journal, **settings) as writer:
            for study in studies:
                writer.write(study)
            raise KeyboardInterrupt


def test_with_a_journal_closed_shards_stay_and_the_next_writer_goes_on(make_study, tmp_path):
    studies = [make_study(number, split="val" if number == 1 else "train") for number in range(6)]
    _write(tmp_path / "expected", studies, samples_per_shard=2)
    folder, path = tmp_path / "s", tmp_path / ".s.journal.jsonl"
    _break_off(folder, studies[:4], path)
    assert not folder.exists()
    assert [file.name for file in (tmp_path / ".s.partial").iterdir()] == ["train-000000.tar"]
    (tmp_path / ".s.partial" / "train-000001.tar").write_bytes(b"renamed, but not in the journal: not closed")
    (tmp_path / ".s.partial" / "val-000007.tar").write_bytes(b"of which nothing is known")
    with Journal(path) as journal:
        assert [entry.shard.num_samples for entry in journal.entries] == [2]
        with ShardWriter(folder, samples_per_shard=2, journal=journal) as writer:
            assert writer.num_studies == 2
            with pytest.raises(DataError, match="twice"):
                writer.write(studies[0])
            for study in (studies[1], *studies[3:]):
                writer.write(study)
    assert _contents(folder) == _contents(tmp_path / "expected")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["expected", "s"]


def test_what_the_caller_notes_stands_beside_the_shard(make_study, tmp_path):
    notes = iter([{"units": ("tt",)}, {"units": ("t", "t")}])
    _break_off(tmp_path / "s", map(make_study, range(4)), tmp_path / "j", notes=lambda: next(notes))
    with Journal(tmp_path / "j") as journal:
        assert [entry.units for entry in journal.entries] == [("tt",), ("t", "t")]


def test_somebody_elses_build_is_not_disturbed(make_study, tmp_path):
    with ShardWriter(tmp_path / "s") as first:
        first.write(make_study(1))
        with pytest.raises(DataError, match="another process is writing"):
            _write(tmp_path / "s", [make_study(2)])
        first.write(make_study(3))
    assert first.manifest.num_studies == 2
    assert check(tmp_path / "s") == []


def test_studies_that_do_not_add_up_are_our_own_mistake(make_study, tmp_path):
    writer = ShardWriter(tmp_path / "s")
    writer.facts["read"] = 3
    writer.faults["unreadable_image"] += 1
    with pytest.raises(AssertionError, match="lost"), writer:
        writer.write(make_study(1))
    assert list(tmp_path.iterdir()) == []


def test_files_beside_the_manifest_and_other_facts(make_study, tmp_path):
    with ShardWriter(tmp_path / "s") as writer:
        writer.write(make_study(1))
        writer.faults["unreadable_image"] += 1
        writer.facts |= {"read": 4, "left_out": {"excluded": 2}}
        writer.beside["quarantine.jsonl"] = b"{}\n"
    assert (tmp_path / "s" / "quarantine.jsonl").read_bytes() == b"{}\n"
    assert (writer.manifest.read, writer.manifest.left_out) == (4, {"excluded": 2})
    assert check(tmp_path / "s") == []
    assert writer.num_mute == 0
