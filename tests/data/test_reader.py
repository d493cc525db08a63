import json
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from vlp.data import hostile, open_shards
from vlp.data.manifest import read_manifest
from vlp.data.reader import ShardReader
from vlp.data.validate import check
from vlp.errors import DataError


def test_studies_come_in_the_manifests_order(reader):
    keys = reader.keys("train")
    assert keys == tuple(sample.key for shard in reader.manifest.shards[:3] for sample in shard.samples)
    assert [study.id for study in reader.studies("val")] == ["study.20", "study.21"]
    assert reader.keys() == keys + reader.keys("val") + reader.keys("test")
    assert len(reader) == 14


def test_everything_of_a_study_comes_back(reader, make_study):
    original = make_study(2, views=("lateral", "AP"))
    key = reader.keys("train")[2]
    study = reader.study(key)
    assert study.report == original.study.report
    assert study.sentences == original.study.sentences
    assert study.regions == original.study.regions
    assert set(study.images) == set(original.study.images)
    assert np.array_equal(reader.image(key, 0), original.pixels[1])  # the frontal one is first
    assert np.array_equal(reader.image(key, 1), original.pixels[0])
    assert reader.num_images(key) == 2
    assert reader.encoded(key, 1).startswith(b"\x89PNG")


def test_reading_by_offset_equals_reading_the_tar(reader):
    shard = reader.manifest.shards[0]
    with tarfile.open(reader.folder / shard.name) as tar:
        for member in tar:
            key, suffix = member.name.split(".", 1)
            assert reader.member(key, suffix) == tar.extractfile(member).read()


def test_it_travels_to_other_processes(reader):
    key = reader.keys()[0]
    before = reader.image(key, 0)  # opens a file, which must not be sent
    copy = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(copy.image(key, 0), before)
    reader.close()
    assert np.array_equal(reader.image(key, 0), before)


def test_webdataset_reads_the_same_studies(reader):
    webdataset = pytest.importorskip("webdataset")
    names = [str(reader.folder / shard.name) for shard in reader.manifest.shards if shard.split == "train"]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("pilrgb"))
    assert [sample["__key__"] for sample in samples] == list(reader.keys("train"))
    for sample in samples:
        assert np.array_equal(np.asarray(sample["png"])[..., 0], reader.image(sample["__key__"], 0))
        assert sample["txt"] == reader.text(sample["__key__"])
        assert sample["json"]["key"] == sample["__key__"]


def test_missing_and_short_tars_are_refused_at_once(shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    tar = folder / "train-000001.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"train-000001\.tar: .* bytes instead of"):
        open_shards(folder)
    tar.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: missing"):
        open_shards(folder)


def test_a_tar_cut_while_it_is_read_is_noticed(shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    reader = open_shards(folder)
    (folder / "train-000000.tar").write_bytes(b"")
    with pytest.raises(DataError, match="truncated"):
        reader.study(reader.keys("train")[0])


def test_unknown_keys_members_and_folders(reader, tmp_path):
    with pytest.raises(DataError, match="no study with the key"):
        reader.study("nobody")
    with pytest.raises(DataError, match=r"has no view7\.png"):
        reader.image(reader.keys()[0], 7)
    with pytest.raises(DataError, match="not a folder of shards"):
        open_shards(tmp_path / "nowhere")


def test_bytes_that_are_no_image_name_the_study(shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    reader = open_shards(folder)
    key = reader.keys("train")[0]
    offset, size = reader.sample(key).members["png"]
    tar = folder / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[offset : offset + size] = bytes(size)
    tar.write_bytes(content)
    with pytest.raises(DataError, match=f"image 0 of study {key} cannot be decoded"):
        reader.image(key, 0)


@pytest.mark.parametrize("place", [[10**20, 50], [512, 10**12]])
def test_a_manifest_that_points_outside_its_tar_is_one_plain_error(shards, tmp_path, place):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["samples"][0]["members"]["txt"] = place
    (folder / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")))
    with pytest.raises(DataError, match=r"train-000000\.tar: study .* behind its end"):
        open_shards(folder)
    reader = ShardReader(folder, read_manifest(folder))  # whoever skips that
    with pytest.raises(DataError, match="behind its end"):
        reader.text(reader.keys()[0])
    assert {"sample", "bad_offset"} <= {fault.code for fault in check(folder)}


def test_a_member_too_large_for_what_it_is_is_not_read(reader, monkeypatch):
    monkeypatch.setitem(hostile._MAX_BYTES, "json", 10)
    with pytest.raises(DataError, match="json is too large"):
        reader.study(reader.keys()[0])
    assert reader.text(reader.keys()[0])


def test_only_the_very_member_is_ever_taken_for_it(shards, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(shards, folder)
    reader = open_shards(folder)
    one, two = reader.keys("train")[:2]
    reader.sample(one).members["txt"] = reader.sample(two).members["txt"]
    with pytest.raises(DataError, match="at the place of its txt lies a member of another name"):
        reader.text(one)
    offset, _ = reader.sample(two).members["json"]
    with (folder / "train-000000.tar").open("r+b") as file:
        file.seek(offset - 512)
        file.write(b"x")
    with pytest.raises(DataError, match="before its json: no tar header"):
        reader.study(two)
