import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.retrieval.conftest import make_study
from vlp.errors import DataError
from vlp.retrieval.store import parts
from vlp.retrieval.store.parts import PartFacts, check_part, held, map_vectors, read_part, read_table, write_part
from vlp.retrieval.store.rows import row_facts, table_of

NAME, DIM = "train-000000", 8
COUNTS = {"global": 2, "finding": 4}


def written(folder: Path) -> PartFacts:
    """A part of six vectors of two studies."""
    (folder / parts.PARTS).mkdir()
    rows = [
        row_facts(make_study(study).study, f"k-{study}", 0, fingerprint=bytes(32)) | {"kind": kind, "what": what}
        for kind, studies, names in (("global", (1, 2), ("",)), ("finding", (1, 2), ("mass", "nodule")))
        for study in studies
        for what in names
    ]
    vectors = np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float16)
    return write_part(folder, NAME, vectors, table_of(rows), counts=COUNTS)


def forged(folder: Path, facts: PartFacts, ending: str) -> PartFacts:
    """The facts of somebody who changed a file and its checksum too."""
    content = (folder / parts.PARTS / f"{NAME}.{ending}").read_bytes()
    changed = facts.sha256 | {ending: hashlib.sha256(content).hexdigest()}
    return facts.model_copy(update={"sha256": changed})


def test_a_part_comes_back_as_it_was_written(tmp_path: Path) -> None:
    facts = written(tmp_path)
    assert read_part(tmp_path, NAME) == facts
    assert (facts.rows, facts.studies, facts.images, facts.synthetic) == (6, 2, 2, True)
    assert (facts.span("global"), facts.span("finding"), facts.span("region")) == (
        slice(0, 2),
        slice(2, 6),
        slice(0, 0),
    )
    vectors = map_vectors(check_part(tmp_path, facts, "npy"), facts, dim=DIM)
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, np.random.default_rng(0).normal(size=(6, DIM)).astype(np.float16))
    table = read_table(check_part(tmp_path, facts, "parquet"), facts)
    assert table["what"].to_pylist() == ["", "", "mass", "nodule", "mass", "nodule"]
    assert {path.suffix for path in (tmp_path / parts.PARTS).iterdir()} == {".npy", ".parquet", ".json"}


@pytest.mark.parametrize("ending", ["npy", "parquet", "json"])
def test_a_part_with_a_file_missing_or_cut_is_none(tmp_path: Path, ending: str) -> None:
    written(tmp_path)
    file = tmp_path / parts.PARTS / f"{NAME}.{ending}"
    if ending != "json":
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        assert read_part(tmp_path, NAME) is None
    file.unlink()
    assert read_part(tmp_path, NAME) is None


@pytest.mark.parametrize("content", [b"{", b"{}", b'{"name": "../../etc", "counts": {}}'])
def test_a_damaged_word_is_told(tmp_path: Path, content: bytes) -> None:
    written(tmp_path)
    (tmp_path / parts.PARTS / f"{NAME}.json").write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        read_part(tmp_path, NAME)


def test_names_are_no_paths(tmp_path: Path) -> None:
    facts = json.loads(written(tmp_path).model_dump_json())
    for name in ("../train-000000", "/etc/passwd", "train-000000/..", "train-000000\n"):
        with pytest.raises(ValueError, match="name"):
            PartFacts.model_validate_json(json.dumps(facts | {"name": name}))


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_a_changed_byte_is_told(tmp_path: Path, ending: str) -> None:
    facts = written(tmp_path)
    file = tmp_path / parts.PARTS / f"{NAME}.{ending}"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="changed since it was written"):
        check_part(tmp_path, facts, ending)
    file.unlink()
    with pytest.raises(DataError, match="missing or changed"):
        check_part(tmp_path, facts, ending)


@pytest.mark.parametrize("attack", ["objects", "wrong type", "too few", "transposed", "no array"])
def test_numbers_that_are_not_what_they_should_be(tmp_path: Path, attack: str) -> None:
    facts = written(tmp_path)
    file = tmp_path / parts.PARTS / f"{NAME}.npy"
    arrays = {
        "objects": np.array([{"a": 1}], dtype=object),
        "wrong type": np.zeros((6, DIM), dtype=np.float32),
        "too few": np.zeros((5, DIM), dtype=np.float16),
        "transposed": np.asfortranarray(np.zeros((6, DIM), dtype=np.float16)),
    }
    if attack in arrays:
        np.save(file, arrays[attack])
    else:
        file.write_bytes(b"\x93NUMPY\x01\x00\xff\xff" + bytes(40))
    facts = forged(tmp_path, facts, "npy")
    with pytest.raises(DataError, match=r"not (an array of numbers|the array)"):
        map_vectors(check_part(tmp_path, facts, "npy"), facts, dim=DIM)


def test_a_table_of_other_columns_or_length_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = written(tmp_path)
    file = tmp_path / parts.PARTS / f"{NAME}.parquet"
    table = pyarrow.parquet.read_table(file)
    monkeypatch.setattr(pa.parquet.ParquetFile, "read", lambda *_: pytest.fail("unpacked"))
    for other in (pa.concat_tables([table] * 2), table.drop_columns(["report"])):
        pyarrow.parquet.write_table(other, file)
        with pytest.raises(DataError, match="not the table"):
            read_table(check_part(tmp_path, forged(tmp_path, facts, "parquet"), "parquet"), facts)
    file.write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(DataError, match="not the table"):
        read_table(check_part(tmp_path, forged(tmp_path, facts, "parquet"), "parquet"), facts)


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(DataError, match="No space left"):
        written(tmp_path)
    assert read_part(tmp_path, NAME) is None
    assert [path.name for path in (tmp_path / parts.PARTS).iterdir()] == [f"{NAME}.npy"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    (tmp_path / parts.PARTS).mkdir()
    with held(tmp_path, NAME):
        with pytest.raises(DataError, match="another process"), held(tmp_path, NAME):
            pytest.fail("two at once")
        with held(tmp_path, "train-000001"):
            pass
    with held(tmp_path, NAME):
        pass
    assert not list((tmp_path / parts.PARTS).iterdir())


def test_the_lock_of_a_process_that_died_hinders_nobody(tmp_path: Path) -> None:
    (tmp_path / parts.PARTS).mkdir()
    child = os.fork()
    if child == 0:
        with held(tmp_path, NAME):
            os._exit(0)
    os.waitpid(child, 0)
    assert list((tmp_path / parts.PARTS).iterdir())
    with held(tmp_path, NAME):
        pass
