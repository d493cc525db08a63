import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.ingest.real_data import real_data
from vlp.data import duplicates
from vlp.data.duplicates import COARSE, FINE, SAME, Group, Place, alike, close_pairs, detail, find_duplicates
from vlp.data.fingerprints import fingerprint, ranks, trimmed
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.records import ImageFile, LoadedStudy, Person, Report, Study


def _picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((size, size)), (192, 224), interpolation=cv2.INTER_CUBIC) for size in (3, 9, 40)]
    return np.clip(60 + 60 * sum(layers), 0, 255).astype(np.uint8)


def _study(number: int, pixels: np.ndarray, split: str = "train", report: str | None = None) -> LoadedStudy:
    image = ImageFile(id="i", path=None, view="PA", rows=pixels.shape[0], columns=pixels.shape[1])
    study = Study(
        id=f"s{number}",
        person=Person(id=f"p{number}"),
        images=(image,),
        report=None if report is None else Report(text=report),
        source="made here",
        split=split,
    )
    return LoadedStudy(study=study, pixels=(pixels,))


def _shards(folder: Path, *studies: LoadedStudy) -> Path:
    with ShardWriter(folder) as writer:
        for study in studies:
            writer.write(study)
    return folder


def _darker(pixels: np.ndarray) -> np.ndarray:
    return (pixels * 0.8).astype(np.uint8)


def test_close_pairs_are_those_that_a_plain_loop_finds():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (60, 4), dtype=np.uint64)
    for number in range(20):  # neighbours at every distance around the limits
        near = words[number].copy()
        for bit in rng.choice(63, number % 12, replace=False):
            near[0] ^= np.uint64(1 << int(bit))
        for bit in rng.choice(63, 5 * (number % 13), replace=False):
            near[1 + number % 3] ^= np.uint64(1 << int(bit))
        words[40 + number] = near
    owners = np.arange(60) // 2 * 2  # two fingerprints each
    expected = set()
    for one, two in itertools.combinations(range(60), 2):
        bits = [int(a ^ b).bit_count() for a, b in zip(words[one].tolist(), words[two].tolist(), strict=True)]
        if bits[0] <= COARSE and sum(bits) <= FINE and owners[one] != owners[two]:
            expected.add((owners[one], owners[two]))
    assert len(expected) > 3
    assert {tuple(pair) for pair in close_pairs(words, owners).tolist()} == expected


def test_blocks_meet_without_a_gap(monkeypatch):
    monkeypatch.setattr(duplicates, "_ROWS", 3)
    monkeypatch.setattr(duplicates, "_COLUMNS", 5)
    words = np.zeros((17, 4), dtype=np.uint64)
    assert len(close_pairs(words, np.arange(17))) == 17 * 16 // 2
    assert len(close_pairs(words[:1], np.arange(1))) == 0
    assert close_pairs(words[:0], np.arange(0)).shape == (0, 2)


def test_copies_are_found_within_and_across_folders_and_leaks_named(tmp_path):
    one, two, three = (_picture(seed) for seed in range(3))
    padded = cv2.copyMakeBorder(one, 0, 0, 16, 16, cv2.BORDER_CONSTANT)
    here = _shards(tmp_path / "a", _study(1, one), _study(2, two), _study(3, _darker(two)), _study(4, three, "test"))
    there = _shards(tmp_path / "b", _study(9, padded, "test"), _study(8, _picture(7)))
    alone = find_duplicates([here], workers=1)
    assert (alone.images, alone.reports, alone.leaks) == (4, 0, ())
    assert [len(group.places) for group in alone.groups] == [2]
    both = find_duplicates([here, there])
    assert both.images == 6
    (leak,) = both.leaks
    assert leak.splits == {"train", "test"}
    assert {(place.folder, place.split) for place in leak.places} == {(str(here), "train"), (str(there), "test")}
    assert len(both.groups) == 2


def test_all_copies_of_one_image_are_one_group_and_compared_no_more_than_needed(tmp_path, monkeypatch):
    picture = _picture(1)
    folder = _shards(
        tmp_path / "a", *(_study(number, _darker(picture) if number % 2 else picture) for number in range(8))
    )
    compared = []
    monkeypatch.setattr(duplicates, "alike", lambda *images: compared.append(images) or 1.0)
    (group,) = find_duplicates([folder]).groups
    assert len(group.places) == 8
    assert len(compared) == 7


def test_what_only_looks_close_to_the_signs_is_not_a_copy(tmp_path, monkeypatch):
    folder = _shards(tmp_path / "a", *(_study(number, _picture(number)) for number in range(4)))
    monkeypatch.setattr(duplicates, "close_pairs", lambda *_: np.array([[0, 1], [2, 3]]))
    assert find_duplicates([folder], kinds=("image",)).groups == ()


def test_reports_are_compared_by_their_words(tmp_path):
    reports = (
        "No acute disease is seen.",
        "no acute disease is seen",
        "Left effusion, small in size.",
        "Normal.",
        "normal",
    )
    studies = [
        _study(number, _picture(number), "test" if number == 1 else "train", report)
        for number, report in enumerate(reports)
    ]
    found = find_duplicates([_shards(tmp_path / "a", *studies)], kinds=("report",))
    (group,) = found.groups
    assert (found.images, found.reports) == (0, 3)  # two are too short to tell anything
    assert group.kind == "report"
    assert group.splits == {"train", "test"}
    assert not group.leak  # stock phrases are no leak


def test_a_folder_twice_or_with_a_damaged_image_is_refused(tmp_path):
    folder = _shards(tmp_path / "a", _study(1, _picture(1)))
    with pytest.raises(DataError, match="named twice"):
        find_duplicates([folder, folder / ".." / "a"])
    tar = folder / "train-000000.tar"
    content = bytearray(tar.read_bytes())
    content[512:600] = bytes(88)
    tar.write_bytes(content)
    with pytest.raises(DataError, match=r"image 0 of study .* check --repair"):
        find_duplicates([folder])


def test_a_leak_needs_two_splits():
    places = [Place(folder="f", split=split, key=key) for split, key in (("train", "a"), ("train", "b"), ("val", "c"))]
    assert not Group(kind="image", places=tuple(places[:2])).leak
    assert Group(kind="image", places=tuple(places)).leak


def _jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def _scaled(pixels: np.ndarray, factor: float) -> np.ndarray:
    return cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def _levels(pixels: np.ndarray, gain: float, offset: float) -> np.ndarray:
    return np.clip(pixels * gain + offset, 0, 255).astype(np.uint8)


def _squared(pixels: np.ndarray) -> np.ndarray:
    rows, columns = pixels.shape
    side = max(rows, columns)
    return cv2.copyMakeBorder(pixels, 0, side - rows, 0, side - columns, cv2.BORDER_CONSTANT)


COPIES = {
    "JPEG 50": lambda pixels: _jpeg(pixels, 50),
    "JPEG 20": lambda pixels: _jpeg(pixels, 20),
    "half the size": lambda pixels: _scaled(pixels, 0.5),
    "a quarter of the size, JPEG 75": lambda pixels: _jpeg(_scaled(pixels, 0.25), 75),
    "brighter by 20": lambda pixels: _levels(pixels, 1.0, 20),
    "darker by 20": lambda pixels: _levels(pixels, 1.0, -20),
    "more contrast": lambda pixels: _levels(pixels, 1.2, -25),
    "gamma 1.25": lambda pixels: (255 * (pixels / 255) ** 1.25).astype(np.uint8),
    "equalised": cv2.equalizeHist,
    "padded to a square, JPEG 50": lambda pixels: _jpeg(_squared(pixels), 50),
    "brighter, half the size, JPEG 50": lambda pixels: _jpeg(_scaled(_levels(pixels, 1.1, 5), 0.5), 50),
}


@pytest.fixture(scope="module")
def radiographs() -> list[np.ndarray]:
    """Every fifth frontal NIH image: 200 persons and more, many of them normal, some several times."""
    files = sorted(real_data("images", "nih").glob("*.jpg"))[::5]
    return [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files]


def _fingerprints(pixels: np.ndarray) -> np.ndarray:
    return np.array([fingerprint(ranks(variant)) for variant in trimmed(pixels)])


@pytest.mark.real_data
def test_no_two_radiographs_are_taken_for_one(radiographs):
    """Neither by the signs nor, where these are set to let much more through, by looking."""
    words = [_fingerprints(pixels) for pixels in radiographs]
    owners = np.repeat(np.arange(len(words)), [len(one) for one in words])
    assert len(close_pairs(np.concatenate(words), owners)) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "COARSE", 10)
        patch.setattr(duplicates, "FINE", 90)
        closest = close_pairs(np.concatenate(words), owners)
    assert len(closest) > 5
    assert max(alike(detail(radiographs[one]), detail(radiographs[two])) for one, two in closest) < SAME - 0.05


@pytest.mark.real_data
@pytest.mark.parametrize("name", COPIES)
def test_copies_of_radiographs_are_found(radiographs, name):
    found = 0
    for pixels in radiographs[::4]:
        copy = COPIES[name](pixels)
        difference = _fingerprints(pixels)[:, None] ^ _fingerprints(copy)[None]
        bits = np.bitwise_count(difference)
        close = ((bits[..., 0] <= COARSE) & (bits.sum(axis=-1) <= FINE)).any()
        found += bool(close) and alike(detail(pixels), detail(copy)) >= SAME
    assert found >= 0.98 * len(radiographs[::4])
