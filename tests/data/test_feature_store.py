"""Features on the disk: the numbers that went in, from any process, and nothing that is not whole."""

import multiprocessing
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.data.feature_store import FeatureHeader, FeatureStore, FeatureWriter, Place
from vlp.errors import ConfigError, DataError
from vlp.tensors import ImageFeatures

STUDIES = (("a", (0,)), ("b", (0, 1)), ("c", (2,)), ("d", (0,)))
PLACES = [("a", 0), ("b", 0), ("b", 1), ("c", 2), ("d", 0)]


def header_of(**changes: object) -> FeatureHeader:
    values = {"made_from": {"tower": "1", "shards": "2"}, "dtype": "float32", "width": 4, "grid": (1, 3),
              "images_per_part": 2, "studies": STUDIES}  # fmt: skip
    return FeatureHeader(**(values | changes))  # type: ignore[arg-type]


def features_of(places: list[Place], *, padded: bool = True) -> ImageFeatures:
    """Numbers that follow from the place alone."""
    seeds = [PLACES.index(place) for place in places]
    rows = [torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    padding = torch.tensor([[seed % 2 == 0, False, False] for seed in seeds]) if padded else None
    return ImageFeatures(
        pooled=torch.stack([row[0] for row in rows]),
        patches=torch.stack([row[1:] for row in rows]),
        grid=(1, 3),
        padding=padding,
    )


def read(store: FeatureStore, places: list[Place]) -> ImageFeatures:
    return ImageFeatures.joined([store.get(*place) for place in places])


def fill(writer: FeatureWriter, **options: bool) -> None:
    writer.begin()
    for part in writer.missing():
        writer.write(part, [features_of([place], **options) for place in writer.places(part)])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_goes_in_comes_out_in_any_order(tmp_path: Path, dtype: str) -> None:
    fill(FeatureWriter(tmp_path / "features", header_of(dtype=dtype)))
    store = FeatureStore(tmp_path / "features")
    assert len(store) == 5
    assert ("b", 1) in store
    assert ("b", 2) not in store
    asked = [("d", 0), ("a", 0), ("c", 2), ("b", 1), ("a", 0)]
    found, expected = read(store, asked), features_of(asked)
    kind = getattr(torch, dtype)
    assert torch.equal(found.patches, expected.patches.to(kind))
    assert torch.equal(found.pooled, expected.pooled.to(kind))
    assert torch.equal(found.padding, expected.padding)
    assert found.grid == (1, 3)
    assert read(store, [("b", 0), ("c", 2)]).padding is None  # nowhere in these two
    assert torch.equal(store.get("c", 2).patches[0], expected.patches[2].to(kind))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.integers(1, 5),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 5),
)
def test_every_image_lies_where_the_header_says(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int, grid: tuple[int, int], width: int
) -> None:
    studies = tuple((f"s{number}", tuple(range(count))) for number, count in enumerate(counts))
    header = header_of(studies=studies, images_per_part=size, grid=grid, width=width)
    writer = FeatureWriter(tmp_path_factory.mktemp("store") / "f", header)
    writer.begin()
    expected = {}
    for part in writer.missing():
        blocks = []
        for place in writer.places(part):
            block = ImageFeatures(
                pooled=torch.randn(1, width), patches=torch.randn(1, grid[0] * grid[1], width), grid=grid
            )
            expected[place] = block
            blocks.append(block)
        writer.write(part, blocks)
    assert writer.missing() == []
    assert set(expected) == {(key, index) for key, indices in studies for index in indices}
    store = FeatureStore(writer.folder)
    for place, block in expected.items():
        assert torch.equal(store.get(*place).patches, block.patches)
        assert torch.equal(store.get(*place).pooled, block.pooled)


def test_a_stopped_fill_goes_on_where_it_was(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path / "features", header_of())
    writer.begin()
    assert writer.missing() == [0, 1, 2]
    writer.write(1, [features_of(writer.places(1))])

    def breaks() -> Iterator[ImageFeatures]:
        yield features_of(writer.places(0)[:1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(0, breaks())
    with pytest.raises(DataError, match="2 parts of the features are missing"):
        FeatureStore(tmp_path / "features")
    before = (tmp_path / "features" / "part-000001.bin").stat().st_ino
    again = FeatureWriter(tmp_path / "features", header_of())
    again.begin()
    assert again.missing() == [0, 2]
    assert again.bytes_of(again.missing()) == 3 * header_of().bytes_per_image
    fill(again)
    assert (tmp_path / "features" / "part-000001.bin").stat().st_ino == before
    assert torch.equal(read(FeatureStore(tmp_path / "features"), PLACES).patches, features_of(PLACES).patches)
    assert sorted(path.name for path in (tmp_path / "features").iterdir()) == [
        "header.json", "part-000000.bin", "part-000001.bin", "part-000002.bin"]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"made_from": {"tower": "9", "shards": "2"}}, "tower"),
        ({"made_from": {"tower": "1", "shards": "2", "precision": "x"}}, "precision"),
        ({"dtype": "float16"}, "type, shape or studies"),
        ({"studies": STUDIES[:-1]}, "type, shape or studies"),
    ],
)
def test_features_of_anything_else_are_refused(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    fill(FeatureWriter(tmp_path / "features", header_of()))
    with pytest.raises(ConfigError, match=named) as caught:
        FeatureWriter(tmp_path / "features", header_of(**changes)).begin()
    assert "\n" not in str(caught.value)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds no features"):
        FeatureWriter(tmp_path, header_of()).begin()
    with pytest.raises(DataError, match="no features here"):
        FeatureStore(tmp_path)
    (tmp_path / "header.json").write_text("{}")
    with pytest.raises(DataError, match=r"header\.json: damaged"):
        FeatureStore(tmp_path)


def test_numbers_beyond_the_type_are_refused(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path / "features", header_of(dtype="float16"))
    writer.begin()
    large = features_of(writer.places(0))
    large.patches[1, 2, 0] = 7e4
    with pytest.raises(DataError, match="range of float16; use dtype float32"):
        writer.write(0, [large])
    assert writer.missing() == [0, 1, 2]


def test_a_full_disk_is_known_before_and_told_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = FeatureWriter(tmp_path / "features", header_of())
    writer.begin()
    writer.refuse_full_disk([0, 1, 2])
    needed = writer.bytes_of([0, 1, 2])
    assert needed == 5 * (4 * 4 * 4 + 3)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(DataError, match=r"the disk has 0\.00 GB left"):
        writer.refuse_full_disk([0, 1, 2])

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="cannot write features: No space left"):
        writer.write(0, [features_of(writer.places(0))])
    assert [path.name for path in writer.folder.iterdir()] == ["header.json"]


def test_a_file_cut_after_opening_is_an_error_and_no_crash(tmp_path: Path) -> None:
    fill(FeatureWriter(tmp_path / "features", header_of()))
    store = FeatureStore(tmp_path / "features")
    store.get("d", 0)
    os.truncate(tmp_path / "features" / "part-000002.bin", 10)
    with pytest.raises(DataError, match=re.escape("part-000002.bin: truncated")):
        store.get("d", 0)
    with pytest.raises(DataError, match="1 parts"):
        FeatureStore(tmp_path / "features")
    with pytest.raises(DataError, match="no features of image 7 of study a"):
        store.get("a", 7)


def test_an_image_that_could_not_be_read_is_an_error_of_its_own(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path / "features", header_of(images_per_part=8))
    writer.begin()
    writer.write(0, [features_of(PLACES[:2]), None, features_of(PLACES[3:])])
    store = FeatureStore(writer.folder)
    with pytest.raises(DataError, match="image 1 of study b could not be read"):
        store.get("b", 1)
    others = [place for place in PLACES if place != ("b", 1)]
    assert torch.equal(read(store, others).patches, features_of(others).patches)
    assert torch.equal(read(store, others).padding, features_of(others).padding)


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    fill(FeatureWriter(tmp_path / "features", header_of()))
    store = FeatureStore(tmp_path / "features")
    read(store, PLACES)
    copy = pickle.loads(pickle.dumps(store))
    store.close()
    assert torch.equal(read(copy, PLACES).patches, features_of(PLACES).patches)
    assert torch.equal(read(store, PLACES).patches, features_of(PLACES).patches)

    def work() -> None:
        os._exit(0 if torch.equal(read(store, PLACES).patches, features_of(PLACES).patches) else 1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(30)
    assert process.exitcode == 0
