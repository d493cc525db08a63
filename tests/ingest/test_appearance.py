import json
from collections import Counter
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest

from tests.ingest.real_data import real_data
from vlp.ingest import appearance
from vlp.ingest.appearance import SIDE, Appearance, examine, reduced_ranks, require_chest
from vlp.ingest.image_error import ImageError

MEAN_FILM = np.kron(appearance._MEAN + 100, np.ones((30, 25))).astype(np.uint8)


def test_the_mean_film_is_like_itself_in_every_contrast():
    for film in (MEAN_FILM, MEAN_FILM // 3 + 100, np.sqrt(MEAN_FILM * 255.0).astype(np.uint8)):
        assert examine(film).likeness == pytest.approx(1.0, abs=0.02)


def test_likeness_is_the_rank_correlation():
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    expected = np.corrcoef(_ranks(picture), appearance._MEAN.ravel())[0, 1]
    assert examine(picture).likeness == pytest.approx(expected)
    turned = [examine(np.ascontiguousarray(np.rot90(picture, turns))).likeness for turns in (1, 2, 3)]
    assert examine(picture).turned == pytest.approx(turned)
    assert examine(255 - picture).likeness == pytest.approx(-examine(picture).likeness)


def _ranks(picture: np.ndarray) -> np.ndarray:
    values = picture.ravel()
    return np.array([(values < value).sum() + (values == value).sum() / 2 for value in values])


def test_a_flat_picture_is_like_nothing():
    flat = np.full((50, 50), 7, np.uint8)
    assert not reduced_ranks(flat).any()
    assert examine(flat).verdict() == "not_chest_radiograph"


@pytest.mark.parametrize(
    ("likeness", "turned", "verdict"),
    [
        (0.6, (0.1, -0.2, 0.3), "chest"),
        (0.2, (0.3, 0.1, 0.35), "chest"),
        (-0.05, (0.2, 0.3, 0.3), "chest"),  # white lungs
        (-0.6, (0.1, 0.0, 0.1), "inverted_polarity"),
        (-0.15, (0.1, 0.0, 0.1), "inverted_polarity"),
        (0.1, (0.6, 0.0, -0.3), "rotated_image"),
        (0.1, (0.0, 0.0, -0.6), "rotated_image"),  # inverted and turned
        (0.45, (0.6, 0.0, 0.0), "chest"),
        (0.1, (0.1, -0.05, 0.0), "not_chest_radiograph"),
    ],
)
def test_verdicts(likeness, turned, verdict):
    assert Appearance(likeness=likeness, turned=turned).verdict() == verdict


def test_img_27_other_views_are_judged_by_polarity_alone():
    assert Appearance(likeness=0.05, turned=(0.9, 0.0, 0.0)).verdict(frontal=False) == "chest"
    assert Appearance(likeness=-0.3, turned=(0.9, 0.0, 0.0)).verdict(frontal=False) == "inverted_polarity"


@pytest.mark.parametrize(
    ("picture", "code"),
    [(255 - MEAN_FILM, "inverted_polarity"), (np.ascontiguousarray(np.rot90(MEAN_FILM)), "rotated_image"),
     (MEAN_FILM[::-1].copy(), "rotated_image"), (np.full((9, 9), 3, np.uint8), "not_chest_radiograph")],
)  # fmt: skip
def test_refusals_name_the_reason_in_one_line(picture, code):
    require_chest(MEAN_FILM, "a")
    with pytest.raises(ImageError) as caught:
        require_chest(picture, "a")
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


# Real films: those the mean was not made from.


@pytest.fixture(scope="module")
def films() -> list[tuple[dict, np.ndarray]]:
    folder = real_data()
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(row | {"folder": folder}, cv2.imread(str(folder / row["file"]), cv2.IMREAD_GRAYSCALE)) for row in rows]


def _in_mean(row: dict) -> bool:
    return row["source"] == "nih-chestxray14" and row["split"] == "train"


def _unseen(films, *, frontal: bool = True) -> Iterator[tuple[dict, np.ndarray]]:
    return ((row, film) for row, film in films if bool(row["frontal"]) == frontal and not _in_mean(row))


def _verdicts(pictures, change: Callable[[np.ndarray], np.ndarray] = lambda film: film, **options) -> Counter:
    verdicts = Counter(examine(np.ascontiguousarray(change(film))).verdict(**options) for _, film in pictures)
    print(dict(verdicts))  # shown by pytest -rP: the figures behind the thresholds
    return verdicts


@pytest.mark.real_data
def test_the_mean_is_that_of_the_training_films(films):
    ranks = [reduced_ranks(film) for row, film in films if _in_mean(row)]
    mean = np.mean(ranks, axis=0)
    assert len(ranks) == 861
    assert np.abs(mean / np.abs(mean).max() * 99 - appearance._MEAN).max() <= 1  # a unit for other rounding


@pytest.mark.real_data
def test_img_26_good_films_pass(films):
    verdicts = _verdicts(_unseen(films))
    assert verdicts.total() == 437
    assert verdicts["chest"] >= 434  # 436


@pytest.mark.real_data
def test_img_06_inverted_films_are_found(films):
    assert _verdicts(_unseen(films), lambda film: 255 - film)["chest"] <= 2  # 0 of 437
    laterals = list(_unseen(films, frontal=False))
    assert _verdicts(laterals, frontal=False)["chest"] == len(laterals) == 40
    assert _verdicts(laterals, lambda film: 255 - film, frontal=False)["inverted_polarity"] >= 38


@pytest.mark.real_data
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_img_28_turned_films_are_found(films, turns):
    assert _verdicts(_unseen(films), lambda film: np.rot90(film, turns))["chest"] <= 30  # 24, 21, 25 of 437


@pytest.mark.real_data
def test_img_29_white_lungs_are_not_no_lungs(films):
    masked = [(row, film) for row, film in films if row.get("mask")]
    assert len(masked) == 89
    for lungs in (1, 2):
        verdicts = _verdicts([(row, _whitened(row, film, lungs)) for row, film in masked])
        assert verdicts["chest"] >= 87
        assert verdicts["not_chest_radiograph"] == 0


def _whitened(row: dict, film: np.ndarray, lungs: int) -> np.ndarray:
    """The film with one lung or both as bright as its mediastinum."""
    mask = cv2.imread(str(row["folder"] / row["mask"]), cv2.IMREAD_GRAYSCALE) > 0
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:lungs] + 1
    white = film.copy()
    inside = np.isin(labels, largest)
    white[inside] = np.maximum(white[inside], np.percentile(film, 88)).astype(np.uint8)
    return white


@pytest.mark.real_data
def test_img_29_children_and_the_supine_pass(films):
    children = [(row, film) for row, film in _unseen(films) if (row["age"] or 99) < 18]
    supine = [(row, film) for row, film in _unseen(films) if row["view"] == "AP Supine"]
    assert len(children) >= 3
    assert len(supine) >= 10
    assert _verdicts(children + supine)["chest"] == len(children) + len(supine)


def _other_pictures() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits, load_sample_images

    down, across = np.mgrid[0:200, 0:200]
    disc = (down - 100) ** 2 + (across - 100) ** 2 < 80**2
    page = np.full((300, 220), 255, np.uint8)
    for line in range(20):
        cv2.putText(page, f"line {line} of a letter", (10, 20 + 14 * line), 0, 0.4, 0, 1)
    temple, flower = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in load_sample_images().images)
    return {
        "temple": temple, "flower": flower, "page": page, "page on its side": np.rot90(page).copy(),
        "noise": np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8),
        "bright above": (199 - down).astype(np.uint8), "bright left": (199 - across).astype(np.uint8),
        "bright right": across.astype(np.uint8), "board": ((down // 20 + across // 20) % 2 * 255).astype(np.uint8),
        "disc": (disc * 255).astype(np.uint8), "hole": (~disc * 255).astype(np.uint8),
        "digit": (load_digits().images[0] * 15).astype(np.uint8),
    }  # fmt: skip


def test_img_26_some_other_pictures_are_refused_and_which_is_stated():
    """What is told by pixels alone; files that say what they show are refused by their header (test_dicom_header)."""
    verdicts = {name: examine(picture).verdict() for name, picture in _other_pictures().items()}
    refused = {name for name, verdict in verdicts.items() if verdict != "chest"}
    print(f"{len(refused)} of {len(verdicts)} other pictures are refused")
    assert len(verdicts) >= 10
    assert refused >= {"noise", "board", "page on its side", "bright above", "bright left", "bright right"}
