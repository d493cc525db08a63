"""The programs that measure similarity attention: that they compare equal things, and count and time what they say."""

import math
import time

import pytest
import torch
from torch.nn import functional

from benchmarks import published
from benchmarks.kernel import Compared, Conditions, Outcome, compare, make_lines, verdicts
from benchmarks.kernel_cases import Asked, Case, find_cases, needed_bytes, no_room
from benchmarks.meter import Meter
from benchmarks.training_step import Watch
from benchmarks.turns import Contender, GoneError
from benchmarks.variants import Size, count_flops, forward_backward, make_problem, similarity
from vlp.kernels import chunked
from vlp.tensors import ImageFeatures, TextFeatures

CPU = torch.device("cpu")
SMALL = Size(images=5, texts=12, patches=9, width=8)
CONDITIONS = Conditions(device="cpu", dtype="fp32", inputs="tokens", threads=1, rounds=2, max_seconds=60.0)


def _solved(variant, inputs):
    problem = make_problem(SMALL, dtype=torch.float64, device=CPU, inputs=inputs)
    forward_backward(variant, problem)
    leaves = (problem.text, problem.patches, problem.tau, *(problem.norm or ()))
    return similarity(variant, problem).detach(), *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize("inputs", ["tokens", "unit"])
@pytest.mark.parametrize("variant", ["reference", "chunked"])
def test_the_published_order_gives_our_values_and_gradients(variant, inputs):
    # float32 in the loss and in the temperature bounds the agreement of gradients.
    for found, expected in zip(_solved("published", inputs), _solved(variant, inputs), strict=True):
        if inputs == "unit" and found.shape == (SMALL.texts, SMALL.width):
            continue  # published norms unit texts once more, which takes the gradient along them away
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_published_texts_lose_only_the_gradient_along_themselves():
    text = make_problem(SMALL, dtype=torch.float64, device=CPU, inputs="unit").text.detach()
    theirs, ours = _solved("published", "unit")[1], _solved("chunked", "unit")[1]
    along = (ours * text).sum(dim=-1, keepdim=True) * text
    torch.testing.assert_close(theirs, ours - along, atol=1e-6, rtol=1e-5)


def test_the_published_loss_is_its_formula():
    logits = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    owner = [0, 0, 1, 2]
    z = [[math.exp(value) for value in row] for row in logits.tolist()]
    rows = [-math.log(z[s][owner[s]] / sum(z[s])) for s in range(4)]
    columns = []
    for s, image in enumerate(owner):
        others = sum(z[other][image] for other in range(4) if owner[other] != image)
        columns.append(-math.log(z[s][image] / (z[s][image] + others)))
    expected = (sum(rows) + sum(columns)) / 8
    assert float(published.multi_positive_nce(logits, torch.tensor(owner))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("copies", [2, 8])
def test_the_published_loss_of_identical_reports_has_a_floor(copies):
    text = functional.normalize(torch.ones(copies, 4), dim=-1)
    logits = text @ text.T / 0.07
    assert float(published.multi_positive_nce(logits, torch.arange(copies))) == pytest.approx(
        math.log(copies), abs=1e-3
    )


@pytest.mark.parametrize(("budgets_kept", "products"), [(3, 7.0), (0, 8.0)], ids=["small", "large"])
def test_products_are_counted_inside_our_operator_too(monkeypatch, budgets_kept, products):
    """A problem too large to keep its scores makes them twice."""
    monkeypatch.setattr(chunked, "KEPT_PER_BUDGET", budgets_kept)
    through_m = Size(images=3, texts=4, patches=20, width=6)
    counted = {}
    for variant in ("published", "chunked"):
        problem = make_problem(through_m, dtype=torch.float32, device=CPU, inputs="unit")
        counted[variant] = count_flops(lambda v=variant, p=problem: forward_backward(v, p)) / through_m.product_flops
    assert counted["published"] == 6.0
    assert counted["chunked"] == pytest.approx(products, abs=0.01)


def test_a_size_is_read_as_it_is_written():
    assert str(Size.parse("64x512x196x768")) == "64x512x196x768"
    for wrong in ("64x512x196", "64x512x0x768", "axbxcxd", "64x512x196x768x2"):
        with pytest.raises(ValueError, match="is no size"):
            Size.parse(wrong)


def test_cases_are_found_by_group_name_and_size():
    found = find_cases(["acceptance", "few_patches", "2x3x4x5"])
    assert [str(case.size) for case in found] == ["128x1024x784x256", "64x512x196x768", "64x256x1369x768", "2x3x4x5"]
    with pytest.raises(ValueError, match="no case 'fast'"):
        find_cases(["fast"])


def test_the_published_order_needs_the_room_of_all_pairs():
    # 2,832 MB was measured once for this size, patches normed inside.
    size = Size.parse("128x1024x784x256")
    options = {"bytes_per_number": 4, "inputs": "tokens", "device": "cpu"}
    assert needed_bytes("published", size, **options) == pytest.approx(2.83e9, rel=0.25)
    assert needed_bytes("chunked", size, **options) < 0.25 * needed_bytes("published", size, **options)
    assert no_room(9e9, 10e9) == "needs about 9.0 GB, 10.0 GB are free"
    assert no_room(8e9, 10e9) is None
    assert no_room(8e9, None) is None


def test_two_ways_are_measured_in_turns():
    compared = compare(Case(name="small", size=SMALL), ["published", "chunked"], CONDITIONS)
    assert set(compared.outcomes) == {"published", "chunked"}
    assert not compared.missing
    assert all(len(outcome.seconds) == CONDITIONS.rounds for outcome in compared.outcomes.values())
    assert compared.outcomes["published"].flops == pytest.approx(6 * SMALL.product_flops)
    lines = {line.metric: line for line in make_lines(compared, CONDITIONS)}
    assert lines["published time"].ratio == 1.0
    assert lines["chunked time"].case == "5x12x9x8 fp32 cpu"
    assert lines["chunked time"].low <= lines["chunked time"].value <= lines["chunked time"].high


def test_what_is_too_much_is_left_out_and_said():
    conditions = Conditions(device="cpu", dtype="fp32", inputs="unit", threads=1, rounds=1, max_seconds=1e-9)
    compared = compare(Case(name="small", size=SMALL), ["chunked"], conditions)
    assert not compared.outcomes
    assert "more than --max-seconds" in compared.missing["chunked"]


def _outcome(seconds, peak_bytes):
    return Outcome(seconds=seconds, peak_bytes=peak_bytes, libraries_bytes=0, flops=0)


def test_verdicts_compare_medians_with_what_is_asked():
    case = Case(name="asked", size=SMALL, asked=Asked(seconds_ratio=0.5, peak_mb=10.0, peak_ratio=0.1))
    outcomes = {"published": _outcome([4.0, 4.0, 9.0], 200_000_000), "chunked": _outcome([1.9, 2.0, 8.0], 9_000_000)}
    assert verdicts(case, outcomes) == [
        "<= 10 MB: met",
        "<= 0.5 of published's time: met",
        "<= 0.1 of published's memory: met",
    ]
    outcomes["chunked"] = _outcome([2.1, 2.1, 2.1], 11_000_000)
    assert [verdict.endswith("NOT MET") for verdict in verdicts(case, outcomes)] == [True, True, False]
    assert verdicts(case, {"published": outcomes["published"]}) == ["chunked was not measured"]


def test_the_share_of_the_peak_counts_useful_work_only():
    compared = Compared(
        case=Case(name="x", size=SMALL),
        outcomes={"chunked": _outcome([2.0], 1)},
        missing={},
        flops_per_s=[3.0 * SMALL.useful_flops, 4.0 * SMALL.useful_flops],
    )
    lines = {line.metric: line.value for line in make_lines(compared, CONDITIONS)}
    assert lines["chunked share of GEMM rate"] == pytest.approx(1 / 8)


def test_a_contender_that_runs_out_of_memory_is_told_from_one_that_fails():
    spec = CONDITIONS.spec("chunked", Size(images=10**6, texts=1, patches=10**6, width=10**4))
    with pytest.raises(GoneError, match="out of memory"):
        Contender("benchmarks.variants", spec, threads=1)
    with pytest.raises(RuntimeError, match="ended with status"):
        Contender("benchmarks.variants", spec | {"dtype": "none"}, threads=1)


def test_peak_memory_is_what_a_call_takes_beyond_what_was_there():
    before = torch.ones(20_000_000)
    meter = Meter(CPU)
    peak = meter.measure(lambda: before + 1).peak_bytes
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert peak == pytest.approx(80e6, rel=0.1)


class _Slow(torch.autograd.Function):
    """A tower, or a scorer, that takes its time in both directions."""

    @staticmethod
    def forward(ctx, value, seconds):
        ctx.seconds = seconds
        time.sleep(seconds)
        return value * 2

    @staticmethod
    def backward(ctx, gradient):
        time.sleep(ctx.seconds)
        return gradient * 2, None


def test_the_watch_counts_the_scorer_and_not_the_towers():
    watch = Watch(lambda: None)
    weights = torch.ones(3, 4, requires_grad=True), torch.ones(2, 5, 4, requires_grad=True)
    similarity_ = watch.around(lambda text, image: _Slow.apply(text.pooled @ image.patches.mean(dim=1).T, 0.05))
    texts = _Slow.apply(weights[0], 0.2)
    patches = _Slow.apply(weights[1], 0.2)
    image = ImageFeatures(pooled=patches.mean(dim=1), patches=patches, grid=(1, 5))
    similarity_(TextFeatures(pooled=texts), image).sum().backward()
    assert weights[0].grad is not None
    assert weights[1].grad is not None
    assert 0.1 <= watch.seconds < 0.2
