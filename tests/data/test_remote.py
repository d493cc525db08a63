import fsspec
import pytest

from vlp.data.reader import open_shards
from vlp.data.remote import Remote
from vlp.data.writer import ShardWriter
from vlp.errors import BackendError, DataError


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    if request.param == "file":
        yield f"file://{tmp_path}/bucket/shards"
        return
    yield "memory://bucket/shards"
    fsspec.filesystem("memory").store.clear()


def _write(url, studies, staging, **settings):
    target = Remote(url, staging)
    with ShardWriter(target, **settings) as writer:
        for study in studies:
            writer.write(study)
    return writer.manifest


def _download(url, folder):
    files, path = fsspec.url_to_fs(url)
    folder.mkdir()
    for name in Remote(url, folder).names():
        (folder / name).write_bytes(files.cat_file(f"{path}/{name}"))
    return folder


def test_what_arrives_is_what_a_local_build_would_be(url, make_study, tmp_path):
    studies = [make_study(number, split="test" if number == 4 else "train") for number in range(5)]
    manifest = _write(url, studies, tmp_path / "staging", samples_per_shard=2)
    with ShardWriter(tmp_path / "local", samples_per_shard=2) as writer:
        for study in studies:
            writer.write(study)
    there = _download(url, tmp_path / "there")
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "local").iterdir()
    }
    assert len(open_shards(there)) == 5
    assert Remote(url, tmp_path).finished() == manifest
    assert not (tmp_path / "staging").exists()


def test_closed_shards_do_not_fill_the_local_disk(url, make_study, tmp_path):
    seen = []
    with ShardWriter(Remote(url, tmp_path / "staging"), samples_per_shard=2) as writer:
        for number in range(9):
            writer.write(make_study(number))
            seen.append(len(list(writer.target.partial.iterdir())))
    assert max(seen) == 1


def test_the_manifest_is_last_and_gone_while_tars_are_replaced(url, make_study, tmp_path):
    _write(url, [make_study(number) for number in range(6)], tmp_path / "staging", samples_per_shard=1)
    target = Remote(url, tmp_path / "staging")
    with ShardWriter(target, samples_per_shard=1) as writer:
        assert "manifest.json" in target.names()  # nothing is touched before there is something new
        writer.write(make_study(7))
        assert "manifest.json" not in target.names()
        assert target.finished() is None
    assert target.names() == ["manifest.json", "train-000000.tar"]  # tars of the larger build before are gone
    assert target.finished() is not None


def test_a_cut_off_upload_is_noticed(url, make_study, tmp_path, monkeypatch):
    target = Remote(url, tmp_path / "staging")
    real = type(target._files).put_file

    def half(self, here, there, **settings):
        real(self, here, there, **settings)
        with self.open(there, "wb") as file:
            file.write(b"half")

    monkeypatch.setattr(type(target._files), "put_file", half)
    with (
        pytest.raises(DataError, match=r"train-000000\.tar arrived with 4 bytes instead of"),
        ShardWriter(target) as writer,
    ):
        writer.write(make_study(1))
    assert "manifest.json" not in target.names()


def test_other_peoples_files_are_left_alone(url, make_study, tmp_path):
    files, path = fsspec.url_to_fs(url)
    files.makedirs(path, exist_ok=True)
    files.pipe_file(f"{path}/train-000000.tar", b"somebody's")
    with pytest.raises(DataError, match=r"holds files without a manifest\.json"):
        _write(url, [make_study(1)], tmp_path / "staging")
    files.pipe_file(f"{path}/thesis.txt", b"precious")
    with pytest.raises(DataError, match=r"thesis\.txt"):
        _write(url, [make_study(1)], tmp_path / "staging")
    assert files.cat_file(f"{path}/train-000000.tar") == b"somebody's"


def test_shards_move_between_parts_and_whole(url, make_study, tmp_path):
    whole = Remote(url, tmp_path / "staging")
    part = whole.part("0001-of-0001")
    manifest = _write(part.name, [make_study(1)], tmp_path / "staging")
    whole.prepare()
    whole.adopt(manifest.shards[0], part, "train-000003.tar")
    assert whole.size("train-000003.tar") == manifest.shards[0].bytes
    assert part.finished() == manifest
    part.delete()
    assert part.names() == []
    assert whole.size("none") is None


def test_a_protocol_nobody_knows_and_one_that_is_not_installed(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="Protocol not known"):
        Remote("gopher://hole/shards", tmp_path)

    def missing(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(BackendError, match=r"Install s3fs.*vlp\[remote\]"):
        Remote("s3://bucket/shards", tmp_path)


def test_a_server_that_says_no_is_one_plain_line(url, make_study, tmp_path, monkeypatch):
    target = Remote(url, tmp_path / "staging")

    class OwnError(Exception):
        """Of some protocol's library."""

    def refuse(self, *arguments, **settings):
        raise OwnError("Forbidden\nrequest id 7")

    monkeypatch.setattr(type(target._files), "put_file", refuse)
    with pytest.raises(DataError, match=r"shards: Forbidden$"), ShardWriter(target) as writer:
        writer.write(make_study(1))
