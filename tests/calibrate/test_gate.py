from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.inference.conftest import tiny_config
from vlp.calibrate import gate as fitting
from vlp.calibrate.gate import Examples, Film, films_of, fit_examples, fit_gate, good_films
from vlp.data import ShardReader, open_shards
from vlp.data.writer import ShardWriter
from vlp.errors import DataError
from vlp.inference import gate as gates
from vlp.inference.engine import Engine
from vlp.inference.gate import Gate
from vlp.model import build
from vlp.records import FRONTAL, ImageFile, LoadedStudy, Person, Study, View

PER_PATIENT = 2


def film(rng: np.random.Generator, *, view: View = "PA") -> np.ndarray:
    """A coarse chest: dark corners and lungs, a bright middle that widens downwards, the heart on one side."""
    rows, columns = int(rng.integers(70, 90)), int(rng.integers(62, 80))
    down, across = np.mgrid[0 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    grey = 60 + 60 * down + 50 * np.exp(-((across / 0.12) ** 2)) - 50 * np.exp(-(((abs(across) - 1) / 0.15) ** 2))
    if view == "lateral":
        grey = 60 + 90 * (across > 0.4) + 40 * down
    else:
        for side in (-1, 1):
            centre, width = side * rng.uniform(0.42, 0.5), rng.uniform(0.2, 0.26)
            grey -= rng.uniform(45, 60) * np.exp(-(((across - centre) / width) ** 2) - ((down - 0.45) / 0.28) ** 2)
        grey += 45 * np.exp(-(((across - 0.22) / 0.18) ** 2) - ((down - 0.65) / 0.14) ** 2)
    grey += cv2.GaussianBlur(rng.normal(0, 40, grey.shape), (0, 0), 3)
    return (grey * rng.uniform(0.85, 1.15)).clip(0, 255).astype(np.uint8)


def study(number: int, split: str, rng: np.random.Generator, view: View) -> LoadedStudy:
    pixels = film(rng, view=view)
    image = ImageFile(id=f"image-{number}", path=None, view=view, rows=pixels.shape[0], columns=pixels.shape[1])
    person = Person(id=f"person-{split}-{number // PER_PATIENT}")
    written = Study(id=f"study-{number}", person=person, images=(image,), source="made", split=split)  # type: ignore[arg-type]
    return LoadedStudy(study=written, pixels=(pixels,))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder, rng = tmp_path_factory.mktemp("films") / "shards", np.random.default_rng(0)
    with ShardWriter(folder, image_format="png") as writer:
        for start, split, frontal, lateral in ((0, "val", 80, 20), (500, "test", 60, 20), (900, "train", 8, 0)):
            for number in range(start, start + frontal + lateral):
                writer.write(study(number, split, rng, "PA" if number - start < frontal else "lateral"))
    return open_shards(folder)


@pytest.fixture(scope="module")
def engine() -> Engine:
    torch.manual_seed(0)
    made = Engine(build(tiny_config("similarity_attention")))
    made.fingerprint = "5a" * 32
    return made


@pytest.fixture(scope="module")
def gate(engine: Engine, reader: ShardReader) -> Gate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "MOST_ROUNDS", 1)
        patch.setattr(fitting, "DRAWN_PER_KIND", 15)
        patch.setattr(fitting, "TURNS", 1)
        return fit_gate(engine, reader, split="val", seed=1)


def refused(engine: Engine, gate: Gate, reader: ShardReader, change: Callable[[np.ndarray], np.ndarray]) -> float:
    films = films_of(reader, split="test", views=FRONTAL)
    pictures = [np.ascontiguousarray(change(reader.image(one.key, one.index))) for one in films]
    return float(np.mean([not verdict.accepted for verdict in gate.judge(engine.looked(pictures))]))


def test_films_of_other_patients_pass_and_spoiled_ones_do_not(engine: Engine, gate: Gate, reader: ShardReader) -> None:
    assert refused(engine, gate, reader, lambda pixels: pixels) <= 0.1
    assert refused(engine, gate, reader, lambda pixels: 255 - pixels) >= 0.95
    for turns in (1, 2, 3):
        assert refused(engine, gate, reader, lambda pixels, turns=turns: np.rot90(pixels, turns)) >= 0.95


def test_pictures_of_kinds_it_never_saw_are_refused(engine: Engine, gate: Gate) -> None:
    rng, pictures = np.random.default_rng(9), []
    for _ in range(20):
        rings = np.hypot(*np.mgrid[-1:1:70j, -1:1:70j]) * rng.uniform(20, 40)
        pictures.append((127 + 120 * np.sin(rings)).astype(np.uint8))
        pictures.append(np.kron(rng.integers(0, 2, (10, 10)), np.ones((7, 7))).astype(np.uint8) * 255)
    assert np.mean([not verdict.accepted for verdict in gate.judge(engine.looked(pictures))]) >= 0.95


def test_reasons_name_what_was_done(engine: Engine, gate: Gate, reader: ShardReader) -> None:
    films = [reader.image(one.key, one.index) for one in films_of(reader, split="test", views=FRONTAL)[:30]]
    for change, reason in (
        (lambda pixels: 255 - pixels, "inverted_polarity"),
        (lambda pixels: np.ascontiguousarray(pixels[::-1, ::-1]), "rotated"),
    ):
        verdicts = gate.judge(engine.looked([change(pixels) for pixels in films]))
        assert sum(verdict.reason == reason for verdict in verdicts) >= 24
    laterals = films_of(reader, split="test", views=frozenset({"lateral"}))
    verdicts = gate.judge(engine.looked([reader.image(one.key, one.index) for one in laterals]))
    assert sum(verdict.reason == "lateral_view" for verdict in verdicts) >= 0.8 * len(laterals)


def test_the_facts_say_what_it_was_fitted_on(gate: Gate, reader: ShardReader, engine: Engine, tmp_path: Path) -> None:
    facts = gates.load(gates.save(gate, tmp_path / "gate.json")).facts
    assert (facts["split"], facts["films"], facts["patients"]) == ("val", 80, 40)
    assert facts["shards_sha256"] == reader.digest()
    assert facts["refused_in_cross_validation"]["good"] <= 0.015
    assert gate.model == engine.fingerprint


def test_too_few_films_or_patients_are_refused_with_advice(
    reader: ShardReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"split train has 8 films of 4 patients.*gate: false"):
        good_films(reader, split="train")
    monkeypatch.setattr(fitting, "FEWEST_PATIENTS", 41)
    with pytest.raises(DataError, match="80 films of 40 patients"):
        good_films(reader, split="val")


def test_laterals_are_good_films_only_where_any_view_is(reader: ShardReader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(good_films(reader, split="val")) == 80
    assert len(good_films(reader, split="val", views="any")) == 100
    monkeypatch.setattr(fitting, "MOST_FILMS", 50)
    chosen = good_films(reader, split="val", seed=3)
    assert len(chosen) == len(set(chosen)) == 50
    assert chosen == good_films(reader, split="val", seed=3) != good_films(reader, split="val", seed=4)
    assert all(isinstance(one, Film) for one in chosen)


# Made-up inputs, where what can be learned is known.


def examples(*, mirrored: float, films: int = 200, seed: int = 0) -> Examples:
    """Two blocks of inputs: good films around 0, inverted ones far along the first, mirrored ones along the second."""
    rng = np.random.default_rng(seed)
    places = {"good": (0.0, 0.0), "exposed": (0.0, 0.0), "inverted": (8.0, 0.0), "mirrored": (0.0, mirrored)}
    values, kinds, patients = [], [], []
    for kind, (first, second) in places.items():
        found = rng.normal(size=(films, 8))
        found[:, 0] += first
        found[:, 1] += second
        values.append(found)
        kinds += [kind] * films
        patients += [f"p{number // 2}" for number in range(films)]
    return Examples(values=np.concatenate(values), kind=np.array(kinds), patient=np.array(patients), sizes=(5, 3))


def test_a_reason_that_cannot_be_learned_is_left_out_and_named() -> None:
    gate = fit_examples(examples(mirrored=0.0), model="m")
    assert gate.facts["not_learned"] == ["mirrored"]
    assert set(gate.reasons) == {"inverted_polarity"}
    gate = fit_examples(examples(mirrored=8.0), model="m")
    assert gate.facts["not_learned"] == []
    assert set(gate.reasons) == {"inverted_polarity", "mirrored"}
    assert gate.facts["refused_in_cross_validation"]["mirrored"] >= 0.95


@pytest.mark.parametrize("share", [0.0, 0.015, 0.05])
def test_no_more_good_films_than_allowed_are_refused_in_cross_validation(share: float) -> None:
    gate = fit_examples(examples(mirrored=8.0), model="m", max_refused=share)
    caught = gate.facts["refused_in_cross_validation"]
    assert caught["good"] <= share
    assert (caught["good"] + caught["exposed"]) / 2 <= share
    new = examples(mirrored=8.0, seed=5)
    scores = gate.scored(gate.raw(new.values)).max(axis=1)
    assert (scores[new.kind == "good"] >= 1).mean() <= share + 0.03
    assert (scores[new.kind == "inverted"] >= 1).mean() >= 0.95


def test_the_smallest_limit_leaves_exactly_the_allowed_number_above_it() -> None:
    values = np.arange(100.0)
    for share, above in ((0.0, 0), (0.014, 1), (0.016, 2), (0.05, 5)):
        limit = fitting._smallest_limit(np.random.default_rng(0).permutation(values), share)
        assert (values >= limit).sum() == above


def test_what_is_like_no_kind_is_out_of_distribution() -> None:
    gate = fit_examples(examples(mirrored=8.0), model="m")
    strange = np.zeros((1, 8))
    strange[0, 6] = 30.0  # a direction no kind was ever found in
    scores = dict(zip(gate.detectors, gate.scored(gate.raw(strange))[0], strict=True))
    assert scores["out_of_distribution"] >= 1.0
    assert scores["inverted_polarity"] < 1.0


def test_pictures_of_a_patient_are_in_one_fold_and_drawings_in_all() -> None:
    patients = np.array(["a", "b", "a", "c", "d", "e", "f", *(f"nobody {number}" for number in range(5))] * 3)
    for turn in range(3):
        fold = fitting._folds(patients, seed=0, turn=turn)
        for one in np.unique(patients):
            assert len(set(fold[patients == one])) == 1
        assert sorted(fold[7:12]) == [0, 1, 2, 3, 4]
    assert not np.array_equal(fitting._folds(patients, seed=0, turn=0), fitting._folds(patients, seed=0, turn=1))


def test_every_kind_counts_alike_however_many_pictures_it_has() -> None:
    kind = np.array(["good"] * 90 + ["inverted"] * 10)
    shares = fitting._equal_shares(kind)
    assert shares[:90].sum() == pytest.approx(0.5)
    assert shares[90:].sum() == pytest.approx(0.5)


def test_two_kinds_have_the_log_odds_of_a_plain_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    values, kind = rng.normal(size=(80, 3)), np.array(["good"] * 40 + ["inverted"] * 40)
    values[40:, 0] += 2
    for flipped in (False, True):  # whichever name comes first in the alphabet
        names = np.where(kind == "inverted", "aaa" if flipped else "inverted", kind)
        found, weights, bias = fitting._log_odds(values, names)
        unit = fitting.SPREAD_OF_FIRST / values[:, 0].std()
        plain = LogisticRegression(C=fitting.STRENGTH, class_weight="balanced").fit(values * unit, kind != "good")
        assert found == ["aaa" if flipped else "inverted"]
        np.testing.assert_allclose(weights, plain.coef_ * unit, rtol=1e-2)
        np.testing.assert_allclose(bias, plain.intercept_, atol=1e-2)


def test_the_scale_of_one_input_changes_nothing() -> None:
    plain = examples(mirrored=8.0)
    stretched = replace(plain, values=plain.values * np.array([1, 1000, 1, 1, 1, 1, 1, 1]))
    one, other = (fit_examples(some, model="m") for some in (plain, stretched))
    agree = [gate.scored(gate.raw(some.values)).max(axis=1) >= 1 for gate, some in ((one, plain), (other, stretched))]
    assert (agree[0] == agree[1]).mean() > 0.99
