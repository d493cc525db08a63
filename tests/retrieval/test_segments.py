from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.retrieval.conftest import unit
from vlp.errors import DataError
from vlp.retrieval.facts import SearchPlan, SegmentFacts
from vlp.retrieval.segments import (
    CASE_SCHEMA,
    Content,
    Segment,
    Space,
    case_frame,
    copy_segment,
    sha256,
    write_removed,
    write_segment,
)

VECTORS = unit(np.random.default_rng(0).normal(size=(9, 8)))


def content_of(count: int, *, first: int = 0) -> Content:
    """`count` images, each with a vector of its own; of the regions two are on the first image."""
    rows = [
        {name: None for name in CASE_SCHEMA.names}
        | {"key": f"k{first + row}", "image": 0, "groups": [("site", "north")], "present": ["mass"], "uncertain": [],
           "absent": [], "fingerprint": bytes(32)}
        for row in range(count)
    ]  # fmt: skip
    spaces = (
        Space(kind="view", owners=np.arange(count), vectors=VECTORS[first : first + count]),
        Space(kind="region", what="mass", owners=np.array([0, count - 1, 0]), vectors=VECTORS[first : first + 3]),
    )
    reports = [f"Report {first + row}." if row % 2 == 0 else None for row in range(count)]
    return Content(cases=pyarrow.Table.from_pylist(rows, schema=CASE_SCHEMA), reports=reports, spaces=spaces)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, SegmentFacts]:
    folder = tmp_path / "000001"
    return folder, write_segment(folder, "000001", content_of(4), plan=SearchPlan())


def test_is_read_as_it_was_written(written: tuple[Path, SegmentFacts]) -> None:
    segment = Segment(*written)
    assert segment.cases["key"].tolist() == ["k0", "k1", "k2", "k3"]
    assert segment.cases["groups"].iloc[0] == {"site": "north"}
    assert "report" not in segment.cases
    assert [segment.report(row) for row in range(4)] == ["Report 0.", None, "Report 2.", None]
    searcher, owners = segment.space(written[1].spaces[1])
    assert owners.tolist() == [0, 3, 0]
    scores, ids = searcher.search(VECTORS[2:3], 1)
    assert (ids.tolist(), scores[0, 0]) == ([[2]], pytest.approx(1.0, abs=1e-5))


def test_removed_rows_are_nowhere(written: tuple[Path, SegmentFacts]) -> None:
    folder, _ = written
    facts = write_removed(Segment(*written), np.array([0]), generation=5)
    segment = Segment(folder, facts)
    assert segment.alive.tolist() == [False, True, True, True]
    searcher, owners = segment.space(facts.spaces[1])
    assert owners.tolist() == [-1, 3, -1]
    assert searcher.search(VECTORS[:1], 9)[1].tolist() == [[1]]
    left = segment.content()
    assert case_frame(left.cases)["key"].tolist() == ["k1", "k2", "k3"]
    assert left.reports == [None, "Report 2.", None]
    assert left.spaces[1].owners.tolist() == [2], "the rows before it are gone"
    np.testing.assert_allclose(left.spaces[0].vectors, VECTORS[1:4], atol=5e-4)
    more = write_removed(segment, np.array([2]), generation=6)
    assert (more.removed, more.removed_file) == (2, "removed-000006.npy")
    assert Segment(folder, more).alive.tolist() == [False, True, False, True]


def test_contents_are_joined_in_order() -> None:
    joined = Content.joined([content_of(4), content_of(3, first=4)])
    assert case_frame(joined.cases)["key"].tolist() == [f"k{row}" for row in range(7)]
    assert [space.kind for space in joined.spaces] == ["view", "region"]
    assert joined.spaces[1].owners.tolist() == [0, 3, 0, 4, 6, 4]
    np.testing.assert_array_equal(joined.spaces[0].vectors, VECTORS[:7])


def test_a_copy_shares_no_change_with_its_source(written: tuple[Path, SegmentFacts], tmp_path: Path) -> None:
    """Files are linked: what is removed from one must not be removed from the other."""
    folder, facts = written
    facts = write_removed(Segment(folder, facts), np.array([1]), generation=1)
    copied = copy_segment(Segment(folder, facts), tmp_path / "000009", "000009")
    copied = write_removed(Segment(tmp_path / "000009", copied), np.array([2]), generation=1)
    assert Segment(tmp_path / "000009", copied).alive.tolist() == [True, False, False, True]
    assert Segment(folder, facts).alive.tolist() == [True, False, True, True]


@pytest.mark.parametrize("name", ["cases.parquet", "reports.parquet"])
def test_changed_tables_are_refused(written: tuple[Path, SegmentFacts], name: str) -> None:
    folder, facts = written
    with (folder / name).open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="missing or changed"):
        Segment(folder, facts)


@pytest.mark.parametrize("owners", [np.array([0, 4, 0]), np.array([0, -1, 0]), np.array([0, 1]), np.zeros(3, np.int32)])
def test_owners_that_are_no_rows_are_refused_whatever_their_checksum(
    written: tuple[Path, SegmentFacts], owners: np.ndarray
) -> None:
    folder, facts = written
    space = facts.spaces[1]
    file = folder / space.folder / "owners.npy"
    np.save(file, owners)
    hostile = space.model_copy(update={"sha256": {**space.sha256, "owners.npy": sha256(file)}})
    with pytest.raises(DataError, match="not the array that the index describes"):
        Segment(folder, facts).space(hostile)


def test_a_table_of_another_form_is_refused_before_it_is_read(written: tuple[Path, SegmentFacts]) -> None:
    folder, facts = written
    pyarrow.parquet.write_table(content_of(3).cases, folder / "cases.parquet")
    hostile = facts.model_copy(update={"sha256": {**facts.sha256, "cases.parquet": sha256(folder / "cases.parquet")}})
    with pytest.raises(DataError, match="not the table that the index describes"):
        Segment(folder, hostile)


def test_a_kind_that_must_be_tuned_is_tuned_on_vectors_it_does_not_hold(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = 2600
    vectors = unit(rng.normal(size=(count, 16)))
    rows = content_of(1).cases.to_pylist()[0]
    cases = pyarrow.Table.from_pylist([rows] * count, schema=CASE_SCHEMA)
    space = Space(kind="view", owners=np.arange(count), vectors=vectors)
    content = Content(cases=cases, reports=[None] * count, spaces=(space,))
    facts = write_segment(tmp_path / "one", "000001", content, plan=SearchPlan(kind="ivf_sq8", recall=0.9))
    searcher, owners = Segment(tmp_path / "one", facts).space(facts.spaces[0])
    assert len(searcher) == count
    recall = searcher.facts.recall
    assert recall is not None
    assert recall.asked == 0.9
    assert recall.found >= 0.85
    _, ids = searcher.search(vectors[::50], 1)
    assert (owners[ids[:, 0]] == np.arange(count)[::50]).mean() >= 0.95, "an id is the place of its vector"
