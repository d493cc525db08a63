import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlp.data import hostile
from vlp.data.manifest import Sample, read_manifest
from vlp.data.reader import open_shards
from vlp.data.repair import repair
from vlp.data.ustar import BLOCK, Member
from vlp.data.validate import check
from vlp.data.writer import ShardWriter
from vlp.errors import DataError, VlpError

TAR = "train-000000.tar"


@pytest.fixture
def folder(make_study, tmp_path) -> Path:
    with ShardWriter(tmp_path / "s", image_format="png") as writer:
        for number in range(3):
            writer.write(make_study(number, size=(16, 16), views=("PA", "lateral") if number == 1 else ("PA",)))
    return tmp_path / "s"


def _change(folder: Path, change: Callable[[dict], None] = lambda values: None) -> None:
    """The manifest with a change, and with the size and checksum that the tar has now: its maker is the attacker."""
    values = json.loads((folder / "manifest.json").read_text())
    content = (folder / TAR).read_bytes()
    values["shards"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values, separators=(",", ":")))


def _rebuilt(folder: Path, edit: Callable[[tarfile.TarInfo, bytes], None]) -> None:
    """The tar with one header of the first study's text edited, listed where it lies."""
    manifest = read_manifest(folder)
    sample = manifest.shards[0].samples[0]
    offset, size = sample.members["txt"]
    content = bytearray((folder / TAR).read_bytes())
    header = tarfile.TarInfo(f"{sample.key}.txt")
    header.size = size
    edit(header, bytes(content))
    content[offset - BLOCK : offset] = header.tobuf(tarfile.USTAR_FORMAT)[:BLOCK]
    (folder / TAR).write_bytes(content)
    _change(folder)


def _append(folder: Path, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(folder / TAR, "a", format=tarfile.USTAR_FORMAT) as tar:
        header = tarfile.TarInfo(name)
        header.size, header.type, header.linkname = len(content), kind, "/etc/passwd"
        tar.addfile(header, io.BytesIO(content))
    _change(folder)


def test_good_shards_are_not_refused(folder, shards):
    for good in (folder, shards):
        hostile.refuse_hostile(good, read_manifest(good))


@pytest.mark.parametrize(
    ("name", "kind", "code", "said"),
    [
        ("../../evil.txt", tarfile.REGTYPE, "hostile_path", "leaves its folder"),
        ("a/../../evil.txt", tarfile.REGTYPE, "hostile_path", "leaves its folder"),
        ("..\\evil.txt", tarfile.REGTYPE, "hostile_path", "leaves its folder"),
        ("/etc/cron.d/evil", tarfile.REGTYPE, "hostile_path", "absolute path"),
        ("C:evil.txt", tarfile.REGTYPE, "hostile_path", "absolute path"),
        ("https://elsewhere/evil.json", tarfile.REGTYPE, "hostile_path", "address"),
        ("evil.jpg", tarfile.SYMTYPE, "not_a_file", "a symbolic link"),
        ("evil.jpg", tarfile.LNKTYPE, "not_a_file", "a hard link"),
        ("evil.jpg", tarfile.CHRTYPE, "not_a_file", "a character device"),
        ("evil.jpg", tarfile.BLKTYPE, "not_a_file", "a block device"),
        ("evil.jpg", tarfile.FIFOTYPE, "not_a_file", "a named pipe"),
        ("evil.jpg", tarfile.GNUTYPE_SPARSE, "not_a_file", "a sparse file"),
        ("evil", tarfile.XHDTYPE, "not_a_file", "an extended header"),
        ("evil.pkl", tarfile.REGTYPE, "pickled_member", "can run code"),
        ("evil.pyd", tarfile.REGTYPE, "pickled_member", "can run code"),
        ("evil.PTH", tarfile.REGTYPE, "pickled_member", "can run code"),
        ("evil.view1.pickle", tarfile.REGTYPE, "pickled_member", "can run code"),
        ("evil.json.gz", tarfile.REGTYPE, "foreign_member", "unpack"),
        ("evil.mp", tarfile.REGTYPE, "foreign_member", "decode"),
        ("pipe:rm -r . |", tarfile.REGTYPE, "unknown_member", "no name of a study's file"),
        ("\x1b[2J.json", tarfile.REGTYPE, "unknown_member", r"\x1b[2J"),
    ],
)
def test_a_member_that_no_shard_holds_is_refused_and_named(folder, name, kind, code, said):
    _append(folder, name, kind=kind)
    with pytest.raises(DataError, match=r"train-000000\.tar: holds .* which the manifest does not know") as caught:
        open_shards(folder)
    assert said in str(caught.value)
    assert [(fault.code, said in fault.message) for fault in check(folder)] == [(code, True)]


def test_a_doubled_member_is_refused(folder):
    key = read_manifest(folder).shards[0].samples[0].key
    _append(folder, f"{key}.txt", b"another report")
    with pytest.raises(DataError, match=rf"holds {key}\.txt, which the manifest does not know"):
        open_shards(folder)
    assert "member_twice" in {fault.code for fault in check(folder)}


@pytest.mark.parametrize(
    ("kind", "said"), [(tarfile.SYMTYPE, "a symbolic link"), (tarfile.GNUTYPE_SPARSE, "a sparse file")]
)
def test_a_listed_member_that_is_no_file_is_refused(folder, kind, said, monkeypatch):
    def edit(header: tarfile.TarInfo, _: bytes) -> None:
        header.type, header.linkname = kind, "/etc/passwd"

    _rebuilt(folder, edit)
    with pytest.raises(DataError, match=said):
        open_shards(folder)
    assert "not_a_file" in {fault.code for fault in check(folder)}
    # Large folders are not read header by header when they are opened: the loader meets it where it lies.
    monkeypatch.setattr(hostile, "MAX_HEADERS_AT_OPENING", 0)
    reader = open_shards(folder)
    with pytest.raises(DataError, match=said):
        reader.study(reader.keys()[0])


@pytest.mark.parametrize(
    "field", [{"name": "../x.txt"}, {"name": "58588861f5e50c3c027e.txt"}, {"size": 1}, {"size": 2**31}]
)
def test_a_header_that_says_otherwise_is_refused(folder, field):
    def edit(header: tarfile.TarInfo, _: bytes) -> None:
        for name, value in field.items():
            setattr(header, name, value)

    _rebuilt(folder, edit)
    with pytest.raises(DataError, match=r"train-000000\.tar: study .*: at the place of its txt lies"):
        open_shards(folder)
    assert check(folder)


def _sample(values: dict) -> dict:
    return values["shards"][0]["samples"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda values: _sample(values)["members"].update(txt=[512, 40]), "overlaps"),
        (lambda values: _sample(values)["members"].update(txt=[10**20, 40]), "behind its end"),
        (lambda values: _sample(values)["members"].update(txt=[700, 40]), "where no member can begin"),
        (lambda values: _sample(values)["members"].update(txt=[0, 40]), "where no member can begin"),
        (lambda values: _sample(values)["members"].update(txt=[-512, 40]), "greater than or equal to 0"),
        (lambda values: _sample(values)["members"].update(txt=[512, -1]), "greater than or equal to 0"),
        (lambda values: _sample(values)["members"].update(txt=[512, 1.5]), "integer"),
        (lambda values: _sample(values)["members"].pop("txt"), "has no txt"),
        (lambda values: _sample(values)["members"].update({"pkl": _sample(values)["members"].pop("txt")}), "txt"),
        (lambda values: _sample(values)["members"].update({"view1.png": [512, 4]}), "more than the manifest counts"),
        (lambda values: _sample(values).update(key="../x"), "readers split names"),
        (lambda values: _sample(values).update(key="1.2.840"), "readers split names"),
        (lambda values: values["shards"][0]["samples"].pop(0), "says nothing of"),
        (lambda values: values["shards"][0]["samples"].pop(), "the manifest does not know"),
        (lambda values: values["shards"][0].update(name="../train-000000.tar"), "pattern"),
        (lambda values: values["shards"][0].update(name="pipe:curl elsewhere"), "pattern"),
        (lambda values: values["shards"][0].update(name="https://elsewhere/train-000000.tar"), "pattern"),
        (lambda values: values["shards"][0].update(name="/dev/zero"), "pattern"),
        (lambda values: values["shards"][0].update(name="train-000000.tar\n"), "pattern"),
        (lambda values: values["shards"][0].update(split="test"), "split test"),
        (lambda values: values["shards"].append(values["shards"][0]), "twice"),
        (lambda values: values.update({"\x1b[2J\nkey": 1}), "not a manifest"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused_in_one_line(folder, change, said):
    _change(folder, change)
    with pytest.raises(DataError, match=said) as caught:
        open_shards(folder)
    assert str(caught.value).isprintable()
    with suppress(DataError):
        assert check(folder)


def test_studies_whose_files_are_mixed_up_are_refused(folder):
    def interleave(values: dict) -> None:
        one, two = values["shards"][0]["samples"][0], values["shards"][0]["samples"][2]
        one["members"]["txt"], two["members"]["txt"] = two["members"]["txt"], one["members"]["txt"]

    _change(folder, interleave)
    with pytest.raises(DataError, match="between another study's"):
        open_shards(folder)
    assert "member_order" in {fault.code for fault in check(folder)}


@pytest.mark.parametrize(
    "content", [b"[" * 10**6, b'{"recipe":' + b'{"a":' * 10**5, b'{"a":' + b"9" * 10**5 + b"}", b"\xff\xfe"]
)
def test_manifests_made_to_break_a_parser(folder, content):
    (folder / "manifest.json").write_bytes(content)
    for read in (open_shards, check, repair):
        with pytest.raises(DataError, match="not a manifest of shards"):
            read(folder)


def test_a_manifest_that_is_a_pipe_or_too_large_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(hostile, "MAX_MANIFEST_BYTES", 100)
    with pytest.raises(DataError, match="no manifest is larger"):
        open_shards(folder)
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(DataError, match="not a plain file"):
        open_shards(folder)


def test_a_description_of_two_gigabytes_is_refused_unread(folder, monkeypatch):
    """Holes make it cost nothing; reading it would."""
    manifest = read_manifest(folder)
    sample = manifest.shards[0].samples[-1]
    offset, _ = sample.members["json"]
    huge = 2 << 30
    with (folder / TAR).open("r+b") as file:
        header = tarfile.TarInfo(f"{sample.key}.json")
        header.size = huge
        file.seek(offset - BLOCK)
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(offset + huge + 2 * BLOCK)

    def change(values: dict) -> None:
        values["shards"][0]["bytes"] = offset + huge + 2 * BLOCK
        values["shards"][0]["samples"][-1]["members"]["json"] = [offset, huge]

    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("it was read"))
    with pytest.raises(DataError, match=r"json has 2147483648 bytes; 67108864 are allowed"):
        open_shards(folder)


def test_names_of_the_writers_are_no_fault():
    for suffix in ("png", "view1.png", "view12.png", "txt", "json"):
        member = Member(name=f"58588861f5e50c3c027e.{suffix}", kind="a file", offset=512, size=1)
        assert hostile.member_fault(member, "png") is None
    for suffix in ("jpg", "view0.png", "view01.png", "PNG", "png.png", ""):
        member = Member(name=f"58588861f5e50c3c027e.{suffix}", kind="a file", offset=512, size=1)
        assert hostile.member_fault(member, "png") is not None
    assert hostile.max_bytes("view3.png") == hostile.max_bytes("png") > 0
    assert hostile.max_bytes("exe") == 0


@pytest.fixture(scope="module")
def original(tmp_path_factory, request) -> Path:
    from tests.data.conftest import make_study

    folder = tmp_path_factory.mktemp("fuzz") / "s"
    with ShardWriter(folder, image_format="jpg", samples_per_shard=2) as writer:
        for number in range(3):
            writer.write(make_study(number, size=(16, 16)))
    return folder


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_folders_never_raise_anything_but_our_own_error(original, tmp_path_factory, data):
    """Bytes of tars and manifest changed, moved, cut; the checksum of the manifest made to fit or not."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    for _ in range(data.draw(st.integers(1, 3))):
        path = folder / data.draw(st.sampled_from([TAR, TAR, "train-000001.tar", "manifest.json"]))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        kind = data.draw(st.sampled_from(["flip", "block", "cut", "double", "digit"]))
        if kind == "flip" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif kind == "block":
            content[place : place + BLOCK] = data.draw(st.binary(min_size=1, max_size=BLOCK))
        elif kind == "cut":
            del content[place:]
        elif kind == "double":
            content[place:place] = content[place : place + BLOCK]
        else:
            content[place : place + 1] = b"%d" % data.draw(st.integers(0, 10**12))
        path.write_bytes(content)
    if data.draw(st.booleans()):
        with suppress(Exception):
            _change(folder)
    for read in (_read_all, check, repair, check, _read_all):
        with suppress(VlpError):
            read(folder)


def _read_all(folder: Path) -> None:
    reader = open_shards(folder)
    for key in reader.keys(None):
        with suppress(VlpError):
            reader.study(key)
            for index in range(reader.num_images(key)):
                reader.image(key, index)
    reader.close()


def test_the_first_fault_names_the_study(folder):
    sample = Sample(key="k", patient="p", views=("PA",), sentences=0, members={"png": (512, 1), "txt": (1536, 0)})
    manifest = read_manifest(folder)
    shard = manifest.shards[0].model_copy(update={"samples": (sample,)})
    faults = list(hostile.manifest_faults(manifest.model_copy(update={"shards": (shard,)})))
    assert [(fault.key, fault.code) for fault in faults] == [("k", "missing_member")]
