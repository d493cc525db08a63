import json

import pytest

from vlp.data.manifest import Manifest, Shard, is_shard_folder, read_manifest, write_manifest, write_whole
from vlp.errors import DataError


def test_counts_are_those_of_the_studies(reader):
    train = reader.manifest.splits["train"]
    studies = list(reader.studies("train"))
    assert train.studies == len(studies) == 11
    assert train.images == sum(len(study.images) for study in studies)
    assert train.sentences == sum(len(study.sentences) for study in studies)
    assert train.without_sentences == 1
    assert train.patients == len({study.person.id for study in studies}) == len(reader.manifest.patients("train"))
    assert train.findings == {"edema": {"present": 11}, "pneumothorax": {"absent": 11}}
    assert reader.manifest.labels_origin == {"none": 1, "source": 13}
    assert reader.manifest.licenses == {"CC0": 14}
    assert reader.manifest.synthetic
    assert reader.manifest.num_studies == 14


def test_it_comes_back_as_it_was_written(reader, tmp_path):
    write_manifest(reader.manifest, tmp_path)
    assert read_manifest(tmp_path) == reader.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_the_summary_has_no_patients(reader):
    summary = json.dumps(reader.manifest.summary())
    assert "person-" not in summary
    assert reader.manifest.shards[0].sha256 in summary


def test_a_shard_name_is_never_a_path():
    with pytest.raises(ValueError, match="pattern"):
        Shard(name="../train-000000.tar", split="train", bytes=0, sha256="", num_samples=0, samples=())


@pytest.mark.parametrize("content", [None, "", "{}", '{"format": "other"}', "[1"])
def test_anything_else_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json|not a folder of shards") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert not is_shard_folder(tmp_path)


def test_our_folders_are_known_as_ours(shards):
    assert is_shard_folder(shards)
    assert isinstance(read_manifest(shards), Manifest)


def test_what_was_read_is_written_refused_or_left_out(reader):
    manifest = reader.manifest
    assert manifest.adds_up()  # nobody counted what was read
    counted = {"read": 17, "faults": {"unreadable_image": 1}, "left_out": {"excluded": 2}}
    assert manifest.model_copy(update=counted).adds_up()
    assert not manifest.model_copy(update=counted | {"read": 18}).adds_up()


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "f").write_bytes(b"before")
    write_whole(tmp_path / "f", b"after")
    assert (tmp_path / "f").read_bytes() == b"after"

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "f", b"never")
    assert (tmp_path / "f").read_bytes() == b"after"
