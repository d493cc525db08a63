import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis

from vlp.data.transforms import Preprocess
from vlp.errors import CheckpointError, DataError
from vlp.inference import gate as gates
from vlp.inference.engine import Engine
from vlp.inference.gate import Distance, Gate, Verdict, block_sizes, inputs, plain_reason

RNG = np.random.default_rng(3)


def picture(rows: int = 60, columns: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns)).astype(np.uint8)


def made(width: int, *, reasons: tuple = ("rotated", "inverted_polarity", "rotated"), **changes: object) -> Gate:
    """A gate of random numbers over inputs of `width`, whose two distances see the first five of them."""
    rng = np.random.default_rng(7)
    detectors = len(set(reasons)) + 2
    distances = tuple(
        Distance(
            centre=rng.normal(size=size),
            scale=rng.uniform(0.5, 2, size),
            directions=np.linalg.qr(rng.normal(size=(size, size)))[0][:kept],
            spread=rng.uniform(0.5, 2, kept),
            rest=1.5,
        )
        for size, kept in ((2, 1), (3, 2))
    )
    values = {
        "model": "f" * 64,
        "views": "frontal",
        "centre": rng.normal(size=width),
        "scale": rng.uniform(0.5, 2, width),
        "basis": rng.normal(size=(4, width)),
        "reasons": reasons,
        "weights": rng.normal(size=(len(reasons), 4)),
        "bias": rng.normal(size=len(reasons)),
        "distances": distances,
        "middle": rng.normal(size=detectors),
        "limit": rng.uniform(3, 5, detectors),
        "facts": {"split": "val", "films": 9},
    }
    return Gate(**{**values, **changes})  # type: ignore[arg-type]


def test_raw_values_are_what_a_plain_loop_gives() -> None:
    gate, values = made(6), RNG.normal(size=(5, 6))
    raw = gate.raw(values)
    assert gate.detectors == ("rotated", "inverted_polarity", "out_of_distribution", "out_of_distribution")
    for image, row in enumerate(values):
        component = [sum(b * (x - c) / s for b, x, c, s in zip(line, row, gate.centre, gate.scale, strict=True))
                     for line in gate.basis]  # fmt: skip
        logit = [float(np.dot(w, component)) + b for w, b in zip(gate.weights, gate.bias, strict=True)]
        assert raw[image, 0] == pytest.approx(np.log(np.exp(logit[0]) + np.exp(logit[2])))
        assert raw[image, 1] == pytest.approx(logit[1])
        for column, (distance, part) in enumerate(zip(gate.distances, (row[:2], row[2:5]), strict=True), start=2):
            standard = (part - distance.centre) / distance.scale
            along = [float(np.dot(direction, standard)) for direction in distance.directions]
            outside = sum(standard**2) - sum(value**2 for value in along)
            inside = np.mean([(value / spread) ** 2 for value, spread in zip(along, distance.spread, strict=True)])
            assert raw[image, column] == pytest.approx(np.log(inside + outside / 1.5))


def test_a_distance_along_all_directions_is_that_of_mahalanobis() -> None:
    cloud = RNG.multivariate_normal((1, -2, 3), [[2, 0.8, 0], [0.8, 1, 0.3], [0, 0.3, 0.5]], size=400)
    centre = cloud.mean(axis=0)
    _, lengths, directions = np.linalg.svd((cloud - centre) / np.sqrt(len(cloud)), full_matrices=False)
    distance = Distance(centre=centre, scale=np.ones(3), directions=directions, spread=lengths, rest=1.0)
    inverse = np.linalg.inv(np.cov(cloud.T, bias=True))
    for point in RNG.normal(size=(5, 3)) * 3:
        expected = mahalanobis(point, centre, inverse) ** 2 / 3
        assert distance(point[None])[0] == pytest.approx(np.log(expected), abs=1e-6)


def verdict(gate: Gate, engine: Engine, image: np.ndarray) -> Verdict:
    return gate.judge(engine.looked([image]))[0]


def fixed(width: int, *, raw: tuple[float, ...], reasons: tuple = ("rotated", "inverted_polarity")) -> Gate:
    """A gate that gives the same raw values for every image; each is refused from 1 on."""
    return made(
        width,
        reasons=reasons,
        weights=np.zeros((len(reasons), 4)),
        bias=np.array(raw),
        middle=np.array([0.0] * len(raw) + [0.0, 0.0]),
        limit=np.array([1.0] * len(raw) + [1e9, 1e9]),
    )


def test_the_likeliest_of_the_reasons_over_their_limit_is_given(engine: Engine) -> None:
    width = inputs(engine.looked([picture()])).shape[1]
    good = verdict(fixed(width, raw=(0.2, 0.99)), engine, picture())
    assert (good.accepted, good.reason) == (True, None)
    assert good.score == pytest.approx(0.99)
    assert good.message == "accepted"
    bad = verdict(fixed(width, raw=(1.5, 2.5)), engine, picture())
    assert (bad.accepted, bad.reason) == (False, "inverted_polarity")
    assert bad.scores["rotated"] == pytest.approx(1.5)
    assert "polarity" in bad.message
    # More likely by its raw value, but within what good films reach.
    gate = fixed(width, raw=(1.5, 2.5))
    allowed = replace(gate, limit=np.array([1.0, 3.0, 1e9, 1e9]))
    assert verdict(allowed, engine, picture()).reason == "rotated"


def test_a_distance_alone_is_out_of_distribution_and_a_kind_that_fits_is_the_better_answer(engine: Engine) -> None:
    width = inputs(engine.looked([picture()])).shape[1]
    far = replace(fixed(width, raw=(0.2, 0.3)), limit=np.array([1.0, 1.0, 1e9, 1e-9]))
    raw = far.raw(inputs(engine.looked([picture()])))
    far = replace(far, middle=np.append(far.middle[:3], raw[0, 3] - 1), limit=np.append(far.limit[:3], raw[0, 3] - 0.5))
    assert verdict(far, engine, picture()).reason == "out_of_distribution"
    assert verdict(far, engine, picture()).score == pytest.approx(2.0)
    assert verdict(replace(far, bias=np.array([1.01, 0.0])), engine, picture()).reason == "rotated"


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (picture(200, 60), "bad_geometry"),
        (picture(60, 200), "bad_geometry"),
        (picture(20, 20), "bad_geometry"),
        (np.full((80, 80), 130, dtype=np.uint8), "no_contrast"),
        (np.full((80, 60), 0, dtype=np.uint8), "no_contrast"),
        (picture(180, 61), None),
        (picture(32, 32), None),
    ],
)
def test_what_needs_no_learning_is_refused_first(engine: Engine, image: np.ndarray, reason: str | None) -> None:
    looked = engine.looked([image])
    assert plain_reason(looked.seen[0]) == reason
    judged = verdict(fixed(inputs(looked).shape[1], raw=(0.0, 0.5)), engine, image)
    assert judged.reason == reason
    assert judged.accepted == (reason is None)
    assert judged.score == (0.5 if reason is None else 1.0)


def test_faint_contrast_is_not_hidden_by_bars_or_by_one_white_pixel() -> None:
    faint = np.full((100, 50), 100, dtype=np.uint8)
    faint[3, 3] = 255
    seen = Preprocess(size=64, fit="letterbox").apply(faint)
    assert seen.padding is not None
    assert plain_reason(seen) == "no_contrast"


def test_inputs_have_their_parts_in_order_and_do_not_depend_on_company(engine: Engine) -> None:
    images = [picture(seed=1), picture(80, 64, seed=2), picture(33, 64, seed=3)]
    looked = engine.looked(images)
    values, sizes = inputs(looked), block_sizes(looked)
    assert values.shape == (3, sum(sizes))
    alone = np.concatenate([inputs(engine.looked([image])) for image in images])
    np.testing.assert_allclose(values, alone, atol=1e-4)
    assert np.linalg.norm(values[:, : sizes[0]], axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_thumbnail_knows_neither_exposure_nor_bars(engine: Engine) -> None:
    smooth = np.linspace(0, 200, 64 * 64).reshape(64, 64).astype(np.uint8).T.copy()
    wide = np.repeat(smooth, 2, axis=1)  # the same picture, letterboxed: the model sees bars above and below
    darker = (smooth * 0.5 + 20).astype(np.uint8)
    looked = engine.looked([smooth, wide, darker])
    start = sum(block_sizes(looked)[:2])
    thumbnails = inputs(looked)[:, start : start + block_sizes(looked)[2]]
    assert np.corrcoef(thumbnails[0], thumbnails[1])[0, 1] > 0.99
    assert np.corrcoef(thumbnails[0], thumbnails[2])[0, 1] > 0.99
    assert np.corrcoef(thumbnails[0], inputs(engine.looked([255 - smooth]))[0, start : start + 256])[0, 1] < -0.99


def test_edges_tell_directions_and_places_apart_but_not_polarity() -> None:
    step = np.zeros((64, 64), dtype=np.uint8)
    step[:, 36:] = 200  # one upright edge, in the third column of parts
    shares = gates._edges(step).reshape(4, 4, 8) ** 2
    assert shares.sum() == pytest.approx(1.0)
    assert shares[:, 2, 0].sum() == pytest.approx(1.0)
    lying = gates._edges(np.ascontiguousarray(step.T)).reshape(4, 4, 8) ** 2
    assert lying[2, :, 4].sum() == pytest.approx(1.0)
    np.testing.assert_allclose(gates._edges(255 - step), gates._edges(step), atol=1e-6)
    assert gates._edges(np.zeros((9, 9), dtype=np.uint8)).sum() == 0.0


def test_features_that_are_no_numbers_never_pass(engine: Engine) -> None:
    looked = engine.looked([picture()])
    with pytest.raises(CheckpointError, match="not finite"):
        inputs(replace(looked, tower=looked.tower * float("nan")))


def test_a_gate_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    gate, values = made(6), RNG.normal(size=(4, 6))
    again = gates.load(gates.save(gate, tmp_path / "calibration" / "gate.json"))
    np.testing.assert_allclose(again.scored(again.raw(values)), gate.scored(gate.raw(values)), atol=1e-5)
    assert (again.model, again.views, again.reasons) == (gate.model, gate.views, gate.reasons)
    assert again.facts == gate.facts
    assert [path.name for path in (tmp_path / "calibration").iterdir()] == ["gate.json"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.pop("basis"),
        lambda content: content.update(schema_version=99),
        lambda content: content.update(centre=content["centre"][:-1]),
        lambda content: content.update(limit=content["middle"]),
        lambda content: content.update(limit=content["limit"][:-1]),
        lambda content: content.update(reasons=["rotated", "too_beautiful", "rotated"]),
        lambda content: content.update(views="all"),
        lambda content: content["bias"].__setitem__(0, float("nan")),
        lambda content: content["scale"].__setitem__(0, 0.0),
        lambda content: content["distances"][0].update(rest=0.0),
        lambda content: content["distances"][0].update(spread=[1.0, 1.0]),
        lambda content: content.update(distances=content["distances"] * 3),
        lambda content: content.update(facts=3),
    ],
)
def test_a_damaged_gate_is_refused_in_one_line(tmp_path: Path, damage) -> None:
    path = gates.save(made(6), tmp_path / "gate.json")
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"gate\.json: .*run vlp calibrate again") as caught:
        gates.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{", "[1, 2]", "3"])
def test_what_is_no_gate_at_all_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "gate.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match="gate") as caught:
        gates.load(path)
    assert "\n" not in str(caught.value)


def test_the_gate_of_another_model_is_refused(engine: Engine) -> None:
    made(6, model=engine.fingerprint).refuse_other(engine)
    with pytest.raises(CheckpointError, match="another model"):
        made(6).refuse_other(engine)


def test_the_gate_of_a_checkpoint_is_found_beside_it(tmp_path: Path) -> None:
    final = tmp_path / "checkpoints" / "final"
    final.mkdir(parents=True)
    assert gates.find(final) is None
    path = gates.save(made(6), tmp_path / "calibration" / gates.FILE_NAME)
    assert gates.find(final) == path
    assert gates.find(tmp_path) == path


def test_what_lies_two_folders_above_a_folder_that_is_no_checkpoint_is_not_its_own(tmp_path: Path, monkeypatch) -> None:
    gates.save(made(6), tmp_path / "calibration" / gates.FILE_NAME)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert gates.find(tmp_path / "models" / "mine") is None
    monkeypatch.chdir(tmp_path)
    assert gates.find(Path("mine")) is None


def test_inputs_of_another_version_are_refused() -> None:
    with pytest.raises(CheckpointError, match="vlp calibrate again"):
        made(6).raw(np.zeros((2, 7)))


def test_every_reason_has_words_and_a_verdict_is_plain_json() -> None:
    for reason in gates.MEANING:
        one = Verdict(accepted=False, reason=reason, score=1.0, scores={reason: 1.0})
        assert json.loads(json.dumps(one.to_json()))["message"] == gates.MEANING[reason]
