import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from vlp.data.manifest import read_manifest, write_manifest
from vlp.data.validate import check
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
    assert _codes(copy) == {"sha256"}


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
    faults = [fault for fault in check(copy) if fault.shard == path.name]
    assert {"member_twice", "unknown_member"} <= {fault.code for fault in faults}
    assert any("evil.pkl" in fault.message for fault in faults)
    assert any("../link is not a plain file" in fault.message for fault in faults)


def test_a_patient_in_two_splits_and_a_key_twice(copy):
    manifest = read_manifest(copy)
    last = manifest.shards[-1]
    sample = last.samples[0].model_copy(update={"patient": manifest.shards[0].samples[0].patient})
    doubled = last.model_copy(update={"samples": (sample, sample), "num_samples": 2})
    write_manifest(manifest.model_copy(update={"shards": (*manifest.shards[:-1], doubled)}), copy)
    assert {"patient_in_two_splits", "key_twice"} <= _codes(copy)


def test_files_the_manifest_does_not_know(copy):
    shutil.copy(copy / "train-000000.tar", copy / "train-000009.tar")
    assert [(fault.shard, fault.code) for fault in check(copy)] == [("train-000009.tar", "unknown_file")]


def test_no_manifest_is_an_error(tmp_path):
    with pytest.raises(DataError, match="not a folder of shards"):
        check(tmp_path)
