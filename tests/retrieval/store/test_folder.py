from pathlib import Path

import numpy as np
import pytest

from tests.retrieval.conftest import make_study
from vlp.errors import CheckpointError, ConfigError, DataError
from vlp.retrieval.store import folder as stores
from vlp.retrieval.store.folder import Plan, StoreFacts, VectorStore, begin, finish, merge
from vlp.retrieval.store.parts import write_part
from vlp.retrieval.store.rows import row_facts, table_of

NAMES = ("train-000000", "train-000001", "test-000000")
PLAN = Plan(
    checkpoint="a" * 64, preprocess="b" * 16, shards="c" * 64, dim=4, kinds=("global", "view"), findings=(),
    splits=("train", "test"),
)  # fmt: skip


def numbers(part: int, kind: str) -> np.ndarray:
    return np.random.default_rng([part, len(kind)]).normal(size=(part + 1, 4)).astype(np.float16)


def fill(folder: Path, part: int) -> None:
    """Part `part` has `part` + 1 vectors of each kind."""
    rows = [
        row_facts(make_study(study).study, f"k-{part}-{study}", 0, fingerprint=bytes(32)) | {"kind": kind, "what": ""}
        for kind in PLAN.kinds
        for study in range(part + 1)
    ]
    vectors = np.concatenate([numbers(part, kind) for kind in PLAN.kinds])
    write_part(folder, NAMES[part], vectors, table_of(rows), counts=dict.fromkeys(PLAN.kinds, part + 1))


def complete(folder: Path) -> VectorStore:
    facts = begin(folder, PLAN, NAMES)
    for part in (2, 0, 1):
        fill(folder, part)
    return finish(folder, facts)


def test_rows_and_vectors_belong_together(tmp_path: Path) -> None:
    made = complete(tmp_path / "store")
    store = VectorStore.open(tmp_path / "store")
    assert store.facts == made.facts
    assert store.facts.counts == {"global": 6, "view": 6}
    assert (len(store), store.dim, store.facts.studies, store.facts.synthetic) == (12, 4, 6, True)
    for kind in PLAN.kinds:
        chunks = list(store.vectors(kind))
        assert [len(chunk) for chunk in chunks] == [1, 2, 3], "in the archive's order, not that of filling"
        for part, chunk in enumerate(chunks):
            assert isinstance(chunk, np.memmap)
            np.testing.assert_array_equal(chunk, numbers(part, kind))
        rows = store.rows(kind)
        assert list(rows["key"]) == [f"k-{part}-{study}" for part in range(3) for study in range(part + 1)]
        assert set(rows["kind"]) == {kind}
        assert list(rows.index) == list(range(6))
    everything = store.rows()
    assert len(everything) == 12
    assert list(everything[everything["kind"] == "view"]["key"]) == list(store.rows("view")["key"])


def test_it_is_complete_with_its_last_part_only(tmp_path: Path) -> None:
    facts = begin(tmp_path / "store", PLAN, NAMES)
    fill(tmp_path / "store", 1)
    partial = finish(tmp_path / "store", facts)
    assert partial.missing == ("train-000000", "test-000000")
    assert len(partial.rows("view")) == 2, "what is there can be read"
    for opened in (VectorStore.open, merge):
        with pytest.raises(DataError, match="2 of 3 parts are missing"):
            opened(tmp_path / "store")
    for part in (0, 2):
        fill(tmp_path / "store", part)
    assert len(VectorStore.open(tmp_path / "store")) == 12, "also where nobody has said yet that it is complete"
    assert '"parts":[]' in (tmp_path / "store" / "store.json").read_text().replace(" ", "")
    assert merge(tmp_path / "store").missing == ()
    assert '"parts":[{' in "".join((tmp_path / "store" / "store.json").read_text().split())
    assert len(VectorStore.open(tmp_path / "store")) == 12


def test_a_store_is_filled_by_one_model_of_one_archive(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    before = complete(folder).facts
    assert begin(folder, PLAN, NAMES) == before, "the same again changes nothing"
    for changes, error in (
        ({"checkpoint": "d" * 64}, CheckpointError),
        ({"preprocess": "d" * 16}, CheckpointError),
        ({"shards": "d" * 64}, ConfigError),
        ({"kinds": ("view",)}, ConfigError),
        ({"findings": ("mass",)}, ConfigError),
    ):
        with pytest.raises(error, match=f"{next(iter(changes))} differ"):
            begin(folder, PLAN.model_copy(update=changes), NAMES)
    with pytest.raises(ConfigError, match="parts differ"):
        begin(folder, PLAN, NAMES[:2])
    assert VectorStore.open(folder).facts == before


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no store"):
        begin(tmp_path, PLAN, NAMES)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match=r"cannot write|no store"):
        begin(tmp_path / "thesis.txt", PLAN, NAMES)


def test_of_two_that_begin_at_once_both_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = stores.os.link

    def later(source: str, target: Path) -> None:
        link(source, target)  # somebody else was a moment faster
        link(source, target)

    monkeypatch.setattr(stores.os, "link", later)
    assert begin(tmp_path / "store", PLAN, NAMES) == StoreFacts(plan=PLAN, names=NAMES)
    assert sorted(path.name for path in (tmp_path / "store").rglob("*")) == ["parts", "store.json"]


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_damage_is_told_when_the_file_is_read(tmp_path: Path, ending: str) -> None:
    complete(tmp_path)
    file = tmp_path / "parts" / f"{NAMES[2]}.{ending}"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    store = VectorStore.open(tmp_path)
    with pytest.raises(DataError, match=f"{NAMES[2]}.{ending}: missing or changed"):
        store.verify()
    with pytest.raises(DataError, match="missing or changed"):
        list(store.vectors("view")) if ending == "npy" else store.rows("view")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-40], "no store of this version"),
        (lambda text: text.replace('"vlp-vectors"', '"else"'), "format"),
        (lambda text: text.replace("train-000001", "../../secret"), "names"),
        (lambda text: text.replace('"name": "train-000001"', '"name": "train-000000"'), "not those"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema_version"),
    ],
)
def test_hostile_facts_are_refused(tmp_path: Path, change, says: str) -> None:
    complete(tmp_path)
    file = tmp_path / "store.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=says):
        VectorStore.open(tmp_path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run vlp embed first"):
        VectorStore.open(tmp_path / "nowhere")
    store = complete(tmp_path / "store")
    for ask in (store.rows, store.vectors):
        with pytest.raises(DataError, match="no vectors of the kind 'region' but global, view"):
            ask("region")
