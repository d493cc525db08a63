import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from vlp.data.manifest import read_manifest, write_manifest
from vlp.data.validate import check
from vlp.data.writer import ShardWriter
from vlp.errors import DataError


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    return folder


def _codes(folder: Path) -> set[str]:
    return {fault.code for fault in check(folder)}


def _overwrite(folder: Path, suffix: str, content: bytes) -> str:
    """Puts `content`, padded with blanks, over one member of the first study."""
    shard = read_manifest(folder).shards[0]
    offset, size = shard.samples[0].members[suffix]
    assert len(content) <= size
    path = folder / shard.name
    whole = bytearray(path.read_bytes())
    whole[offset : offset + size] = content.ljust(size, b" ")
    path.write_bytes(whole)
    return shard.samples[0].key


def test_good_shards_have_no_fault(shards):
    assert check(shards) == []


def test_missing_and_truncated_tars(copy):
    tar = copy / "train-000000.tar"
    content = tar.read_bytes()
    tar.unlink()
    assert _codes(copy) == {"missing"}
    for cut in (0, 100, 700, len(content) // 2):
        tar.write_bytes(content[:cut])
        faults = check(copy)
        assert {"size", "sha256"} <= {fault.code for fault in faults}
        assert {fault.shard for fault in faults} == {"train-000000.tar"}


def test_one_flipped_bit_is_noticed(copy):
    tar = copy / "test-000000.tar"
    content = bytearray(tar.read_bytes())
    content[-1] ^= 1  # in the padding, where no member lies
    tar.write_bytes(content)
    assert _codes(copy) == {"sha256", "not_a_tar"}


def test_a_damaged_image_names_its_study(copy):
    key = _overwrite(copy, "png", b"not an image")
    assert [(fault.code, fault.key) for fault in check(copy) if fault.code != "sha256"] == [("image", key)]


def test_a_damaged_description_names_its_study(copy):
    key = _overwrite(copy, "json", b'{"schema_version":1}')
    assert [(fault.code, fault.key) for fault in check(copy) if fault.code != "sha256"] == [("sample", key)]


def test_a_description_that_contradicts_the_manifest(copy):
    shard = read_manifest(copy).shards[0]
    offset, size = shard.samples[0].members["json"]
    values = json.loads((copy / shard.name).read_bytes()[offset : offset + size])
    values["person"]["id"] = "else"
    values["regions"] = [{"finding": "mass", "image": "no such image", "geometry": {"kind": "point", "point": [1, 1]}}]
    values["sentences"][0]["end"] = 9999
    _overwrite(copy, "json", json.dumps(values, separators=(",", ":")).encode())
    assert _codes(copy) == {"sha256", "sample", "region", "span"}


def test_members_added_doubled_linked(copy):
    path = copy / "val-000000.tar"
    shard = next(shard for shard in read_manifest(copy).shards if shard.name == path.name)
    name = f"{shard.samples[0].key}.txt"
    with tarfile.open(path, "a") as tar:
        for extra, kind in ((name, tarfile.REGTYPE), ("evil.pkl", tarfile.REGTYPE), ("../link", tarfile.SYMTYPE)):
            header = tarfile.TarInfo(extra)
            header.type = kind
            tar.addfile(header, io.BytesIO(b""))
    found = {fault.code: fault.message for fault in check(copy) if fault.shard == path.name}
    assert found.keys() == {"sha256", "size", "member_twice", "unknown_member", "pickled_member", "not_a_file"} - (
        set() if "size" in found else {"size"}  # the padding may have had room
    )
    assert "evil.pkl" in found["pickled_member"]
    assert "../link is not a plain file but a symbolic link" in found["not_a_file"]


def test_a_million_small_members_are_counted_not_listed(copy):
    path = copy / "val-000000.tar"
    with tarfile.open(path, "a") as tar:
        for number in range(500):
            tar.addfile(tarfile.TarInfo(f"extra{number}"), io.BytesIO(b""))
    messages = [fault.message for fault in check(copy) if fault.code == "unknown_member"]
    assert len(messages) == 201
    assert messages[-1] == "300 members more that it should not have"


def test_members_missing_from_the_tar_or_from_the_manifest(copy):
    manifest = read_manifest(copy)
    first = manifest.shards[0]
    path, sample = copy / first.name, first.samples[0]
    with path.open("r+b") as file:
        file.seek(sample.members["txt"][0] - 512)
        header = tarfile.TarInfo("0123456789.txt")
        header.size = sample.members["txt"][1]
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
    found = {(fault.code, fault.key) for fault in check(copy)}
    assert {("member", sample.key), ("unknown_member", None), ("sample", sample.key)} <= found
    without = sample.model_copy(update={"members": {"png": sample.members["png"]}})
    changed = first.model_copy(update={"samples": (without, *first.samples[1:])})
    write_manifest(manifest.model_copy(update={"shards": (changed, *manifest.shards[1:])}), copy)
    assert ("missing_member", sample.key) in {(fault.code, fault.key) for fault in check(copy)}


def test_figures_that_are_not_those_of_the_studies(copy):
    manifest = read_manifest(copy)
    train = manifest.splits["train"].model_copy(update={"studies": 12})
    for change, said in (
        ({"splits": manifest.splits | {"train": train}}, "splits"),
        ({"licenses": {"CC0": 13}}, "licenses"),
        ({"synthetic": False}, "synthetic"),
        ({"read": 20}, "read"),
    ):
        write_manifest(manifest.model_copy(update=change), copy)
        assert [(fault.shard, fault.code, fault.message.split(": ")[1]) for fault in check(copy)] == [
            ("manifest.json", "counts", said)
        ]


def test_a_study_that_is_there_twice_under_two_keys(make_study, tmp_path):
    merged = tmp_path / "merged"
    for salt in ("a", "b"):
        with ShardWriter(tmp_path / salt, salt=salt) as writer:
            writer.write(make_study(1))
    shutil.copytree(tmp_path / "a", merged)
    shutil.copy(tmp_path / "b" / "train-000000.tar", merged / "train-000001.tar")
    one, two = read_manifest(tmp_path / "a"), read_manifest(tmp_path / "b")
    again = two.shards[0].model_copy(update={"name": "train-000001.tar"})
    write_manifest(one.model_copy(update={"shards": (*one.shards, again)}), merged)
    faults = {fault.code: fault for fault in check(merged)}
    assert faults["study_twice"].message == "this study was in train-000000.tar before"
    assert faults["study_twice"].key == again.samples[0].key


def test_a_patient_in_two_splits_and_a_key_twice(copy):
    manifest = read_manifest(copy)
    last = manifest.shards[-1]
    sample = last.samples[0].model_copy(update={"patient": manifest.shards[0].samples[0].patient})
    doubled = last.model_copy(update={"samples": (sample, sample), "num_samples": 2})
    write_manifest(manifest.model_copy(update={"shards": (*manifest.shards[:-1], doubled)}), copy)
    assert {"patient_in_two_splits", "key_twice"} <= _codes(copy)


def test_files_the_manifest_does_not_know(copy):
    shutil.copy(copy / "train-000000.tar", copy / "train-000009.tar")
    (copy / "train-000000.tar.damaged").write_bytes(b"kept aside by a repair")
    (copy / "quarantine.jsonl").write_text("")
    assert [(fault.shard, fault.code) for fault in check(copy)] == [("train-000009.tar", "unknown_file")]


def test_a_folder_or_a_pipe_instead_of_a_tar(copy):
    for make in (Path.mkdir, os.mkfifo):
        shutil.rmtree(copy / "val-000000.tar") if (copy / "val-000000.tar").is_dir() else (
            copy / "val-000000.tar"
        ).unlink()
        make(copy / "val-000000.tar")
        assert [(fault.code, fault.message) for fault in check(copy)] == [("missing", "not a plain file")]


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_find_the_same(copy, workers):
    for name in ("train-000000.tar", "train-000002.tar", "test-000000.tar"):
        with (copy / name).open("r+b") as file:
            file.write(b"x" * 1500)
    assert check(copy, workers=workers) == check(copy)


def test_no_manifest_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a folder of shards"):
        check(tmp_path)
