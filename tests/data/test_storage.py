import os

import pytest

from vlp.data.manifest import read_manifest
from vlp.data.remote import Remote
from vlp.data.storage import Folder, sync, target_of
from vlp.data.writer import ShardWriter
from vlp.errors import DataError


def _write(target, studies, **settings):
    with ShardWriter(target, **settings) as writer:
        for study in studies:
            writer.write(study)
    return writer.manifest


@pytest.fixture
def folder(make_study, tmp_path):
    _write(tmp_path / "s", [make_study(1), make_study(2)])
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("memory://a/b", Remote),
        ("file:///tmp/x", Remote),
        ("runs/shards", Folder),
        ("C:/shards", Folder),
        ("a:b", Folder),
    ],
)
def test_urls_are_told_from_folders(output, kind, tmp_path):
    assert type(target_of(output, staging=tmp_path)) is kind


def test_a_finished_folder_is_known(folder, tmp_path):
    target = Folder(folder)
    assert target.finished() == target.manifest() == read_manifest(folder)
    assert target.names() == ["manifest.json", "train-000000.tar"]
    assert target.size("manifest.json") == len(target.read("manifest.json"))
    assert Folder(tmp_path / "none").finished() is None
    assert Folder(tmp_path / "none").names() == []


def test_a_damaged_one_is_not_finished(folder):
    os.truncate(folder / "train-000000.tar", 10240)
    assert Folder(folder).finished() is None
    (folder / "manifest.json").write_text("{}")
    assert Folder(folder).finished() is None
    with pytest.raises(DataError, match="not a manifest"):
        Folder(folder).manifest()


def test_only_shards_may_be_replaced(folder, tmp_path):
    (folder / "quarantine.jsonl").write_text("")
    Folder(folder).refuse_foreign()
    (folder / "thesis.txt").write_text("precious")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        Folder(folder).refuse_foreign()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(DataError, match="no folder of shards"):
        Folder(tmp_path / "file").refuse_foreign()


def test_a_kill_between_two_renames_loses_neither_the_old_nor_the_new(folder, make_study):
    """Killed when the old shards were moved away and the new ones not yet in their place."""
    target = Folder(folder)
    before = read_manifest(folder)
    os.rename(folder, folder.parent / ".s.old")
    target.settle()
    assert read_manifest(folder) == before
    # Killed after that, before the old ones were deleted.
    os.rename(folder, folder.parent / ".s.old")
    _write(folder.parent / "s2", [make_study(3)])
    os.rename(folder.parent / "s2", folder)
    target.settle()
    assert read_manifest(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == ["s"]


def test_a_rename_that_fails_puts_the_old_shards_back(folder, make_study, monkeypatch):
    before = read_manifest(folder)
    real = os.rename

    def rename(source, target):
        if str(source).endswith(".partial"):
            raise OSError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(DataError, match="cannot write shards: Permission denied"):
        _write(folder, [make_study(3)])
    assert read_manifest(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["s"]


@pytest.mark.parametrize("links", [True, False])
def test_adopted_shards_keep_their_bytes_with_or_without_links(folder, tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(95, "not supported")))
    whole, part = Folder(tmp_path / "whole"), Folder(folder)
    whole.prepare()
    whole.partial.mkdir()
    whole.adopt(part.manifest().shards[0], part, "train-000007.tar")
    assert (whole.partial / "train-000007.tar").read_bytes() == (folder / "train-000000.tar").read_bytes()
    assert part.finished() is not None


def test_parts_lie_beside_the_whole_and_go_without_a_trace(folder, make_study):
    parts = [Folder(folder).part(name) for name in ("0001-of-0002", "0002-of-0002")]
    for number, part in enumerate(parts):
        _write(part, [make_study(number)])
    assert parts[0].folder == folder.parent / "s.parts" / "0001-of-0002"
    for part in parts:
        part.delete()
    assert [path.name for path in folder.parent.iterdir()] == ["s"]
    parts[0].delete()  # nothing there: nothing to do


def test_sync_of_files_and_folders(folder):
    sync(folder)
    sync(folder / "manifest.json")
    with pytest.raises(OSError, match="No such file"):
        sync(folder / "none")
