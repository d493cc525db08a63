from collections import Counter

import numpy as np
import pytest
import torch

from tests.inference.conftest import tiny_config
from vlp.evaluate.explain import randomisation
from vlp.evaluate.explain.agreement import ssim
from vlp.evaluate.explain.sample import Sample
from vlp.model import VisionLanguageModel, build


@pytest.fixture
def model() -> VisionLanguageModel:
    torch.manual_seed(2)
    return build(tiny_config("similarity_attention"))


def test_levels_go_from_the_heads_to_the_stem_and_leave_nothing_out(model: VisionLanguageModel) -> None:
    levels = randomisation.levels_of(model)
    assert [name for name, _ in levels] == ["heads", "heads and the top 1 of 2 layers", "everything"]
    counted = Counter(id(parameter) for _, parameters in levels for parameter in parameters)
    assert set(counted.values()) == {1}
    left = {name.split(".")[0] for name, parameter in model.named_parameters() if id(parameter) not in counted}
    assert left == {"text_tower", "scorer"}, "the text tower, and the scorer's temperatures"
    heads = {id(parameter) for parameter in levels[0][1]}
    assert all(id(parameter) in heads for parameter in model.text_head.parameters())
    top = {id(parameter) for parameter in levels[1][1]}
    assert all(id(parameter) in top for parameter in model.image_tower.layers()[-1])


def test_weights_lose_their_places_keep_their_values_and_come_back(model: VisionLanguageModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    levels = randomisation.levels_of(model)
    head = model.image_head.weight  # type: ignore[union-attr]
    stem = levels[-1][1][0]
    stem_before = stem.detach().clone()
    with randomisation.shuffled_from_the_top(model, levels, seed=0) as states:
        assert next(states) == "heads"
        assert not torch.equal(head, before["image_head.weight"])
        assert torch.equal(head.flatten().sort().values, before["image_head.weight"].flatten().sort().values)
        assert torch.equal(stem, stem_before)
        assert list(states)[-1] == "everything"
        assert not torch.equal(stem, stem_before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_come_back_after_an_error(model: VisionLanguageModel) -> None:
    before = model.image_head.weight.clone()  # type: ignore[union-attr]

    def stop() -> None:
        with randomisation.shuffled_from_the_top(model, randomisation.levels_of(model), seed=0) as states:
            next(states)
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop()
    assert torch.equal(model.image_head.weight, before)  # type: ignore[union-attr]


def test_one_row_per_level_and_measure(untrained: Sample) -> None:
    maps = untrained.maps(["There is a mass."])
    rows, found = randomisation.measure(untrained, resamples=100, seed=0)
    assert found is not None
    assert len(rows) == 2 * len(found.levels)
    assert [row.what for row in rows if row.rule] == [
        "SSIM below other images' maps: heads",
        "SSIM below other images' maps: everything",
    ]
    np.testing.assert_array_equal(untrained.maps(["There is a mass."]), maps)
    case = untrained.one_each(most=40)
    own = untrained.maps([untrained.named(case[0].finding)])[0]
    assert found.baseline["SSIM"][0] == pytest.approx(ssim(own[case[0].number], own[case[1].number]), abs=1e-5)


def test_maps_that_do_not_depend_on_the_weights_fail(untrained: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: an edge detector that calls itself an explanation."""

    def edges(sample, engine, cases):
        return [np.abs(np.gradient(sample.seen[case.number].pixels.astype(float))[0]) for case in cases]

    monkeypatch.setattr(randomisation, "_maps", edges)
    monkeypatch.setattr(randomisation, "_baseline", lambda sample, cases, trained: {
        name: np.full(len(cases), 0.6) for name in randomisation.LIKENESS
    })  # fmt: skip
    rows, _ = randomisation.measure(untrained, resamples=100, seed=0)
    judged = [row for row in rows if row.rule]
    assert [row.value for row in judged] == [pytest.approx(-0.4)] * 2
    assert {row.outcome for row in judged} == {"failed"}
