import json
import pickle
import shutil
import tarfile
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest

from vlp.data import files, hostile, open_shards
from vlp.data.files import RemoteConfig
from vlp.data.manifest import read_manifest, shards_digest
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


def test_what_an_archive_is_called_and_known_by(reader, shards, monkeypatch):
    assert reader.name == "shards"
    assert reader.digest() == shards_digest(shards)
    monkeypatch.chdir(shards)
    assert open_shards(".").name == "shards"
    key = reader.keys("val")[0]
    assert reader.shard_of(key).name == "val-000000.tar"
    assert reader.image_format(key) == "png"


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


@pytest.fixture(params=["memory", "file"])
def url(request, shards, tmp_path):
    """The same shards behind a URL."""
    if request.param == "file":
        shutil.copytree(shards, tmp_path / "bucket" / "shards")
        yield f"file://{tmp_path}/bucket/shards"
        return
    system = fsspec.filesystem("memory")
    for path in shards.iterdir():
        system.pipe_file(f"/bucket/shards/{path.name}", path.read_bytes())
    yield "memory://bucket/shards"
    system.store.clear()


@pytest.fixture
def remote(tmp_path):
    return RemoteConfig(cache_folder=tmp_path / "cache", attempts=2)


def test_shards_behind_a_url_read_the_same(url, remote, reader, tmp_path):
    there = open_shards(url, remote=remote)
    assert there.manifest == reader.manifest
    assert there.digest() == reader.digest()
    assert there.name == "shards"
    for other in (there, open_shards(url, remote=RemoteConfig(cache_bytes=0)), open_shards(Path(url), remote=remote)):
        assert list(other.studies()) == list(reader.studies())
        for key in reader.keys("train"):
            assert np.array_equal(other.image(key), reader.image(key))


def _first_study(reader):
    return reader.study(reader.keys()[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_shards_behind_a_url_are_read_by_workers(shards, remote, tmp_path, method):
    there = open_shards(f"file://{shards}", remote=remote)
    first = _first_study(there)
    with get_context(method).Pool(1) as pool:
        assert pool.apply(_first_study, (there,)) == first


def test_a_remote_that_vanishes_is_one_plain_error(url, remote, monkeypatch):
    monkeypatch.setattr(files, "_FIRST_WAIT_S", 0.001)
    reader = open_shards(url, remote=RemoteConfig(cache_bytes=0, attempts=2))
    one, two = reader.keys("train")[:2]
    reader.study(one)
    system, path = fsspec.url_to_fs(url)
    system.rm(path, recursive=True)
    with pytest.raises(DataError, match=r"train-000000\.tar: cannot be read after 2 attempts"):
        reader.study(two)
    with pytest.raises(DataError, match=r"not a folder of shards: there is no manifest\.json"):
        open_shards(url, remote=remote)


def test_a_remote_folder_is_judged_when_it_is_opened(url, remote):
    system, path = fsspec.url_to_fs(url)
    tar = system.cat_file(f"{path}/train-000001.tar")
    system.pipe_file(f"{path}/train-000001.tar", tar[:-1])
    with pytest.raises(DataError, match=r"train-000001\.tar: .* bytes instead of"):
        open_shards(url, remote=remote)
    system.rm_file(f"{path}/train-000001.tar")
    with pytest.raises(DataError, match=r"train-000001\.tar: missing"):
        open_shards(url, remote=remote)
    system.pipe_file(f"{path}/train-000001.tar", tar)
    manifest = json.loads(system.cat_file(f"{path}/manifest.json"))
    manifest["shards"][0]["samples"][0]["members"]["pkl"] = [512, 10]
    system.pipe_file(f"{path}/manifest.json", json.dumps(manifest).encode())
    with pytest.raises(DataError, match=r"train-000000\.tar: study .*pickled"):
        open_shards(url, remote=remote)
    system.pipe_file(f"{path}/manifest.json", b"{}")
    with pytest.raises(DataError, match="not a manifest of shards"):
        open_shards(url, remote=remote)


def test_a_remote_member_that_is_another_is_refused(url, remote):
    system, path = fsspec.url_to_fs(url)
    reader = open_shards(url, remote=remote)
    key = reader.keys("train")[0]
    offset, _ = reader.sample(key).members["json"]
    tar = bytearray(system.cat_file(f"{path}/train-000000.tar"))
    tar[offset - 512] ^= 1
    system.pipe_file(f"{path}/train-000000.tar", bytes(tar))
    with pytest.raises(DataError, match="before its json: no tar header"):
        reader.study(key)


def test_a_folder_that_looks_like_a_url_is_a_folder(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    (tmp_path / "memory:" / "shards").symlink_to(shards)
    assert len(open_shards(Path("memory:/shards"))) == 14


def test_new_shards_under_an_old_url_are_not_read_from_the_cache(remote, make_study, tmp_path):
    from vlp.data.writer import ShardWriter

    texts = []
    for number in (1, 2):
        folder = tmp_path / "shards"
        with ShardWriter(folder, recipe={"number": number}) as writer:
            writer.write(make_study(number))
        texts.append(_first_study(open_shards(f"file://{folder}", remote=remote)).id)
    assert texts == ["study.1", "study.2"]
