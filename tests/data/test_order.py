from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.order import Epoch, Layout, epoch_permutation, find_step

EXPECTED_FIRST = [0, 1, 6, 3, 5, 4, 2, 7]
EXPECTED_MIXED = [7, 2, 8, 9, 0, 10, 1, 6, 5, 4, 9, 10, 3, 6]
WINDOWS = st.none() | st.integers(1, 4)
SHARDS = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(tuple)
LAYOUTS = st.lists(SHARDS, min_size=1, max_size=4).map(
    lambda shards: Layout(shards=tuple(shards), weights=(1.0,) * len(shards))
)


def _one(n, *, shards=1):
    """`n` studies of one archive, in so many shards."""
    sizes = tuple(len(part) for part in np.array_split(np.arange(n), shards))
    return Layout(shards=(sizes,), weights=(1.0,))


def _seen(plan):
    return Counter(int(index) for rank in range(plan.world) for step in plan.steps(rank) for index in step)


@given(
    layout=LAYOUTS, batch=st.integers(1, 40), world=st.integers(1, 5), seed=st.integers(-5, 10**12), window=WINDOWS,
    shuffle=st.booleans(),
)  # fmt: skip
def test_every_study_exactly_once_whatever_world_batch_window_and_archives(layout, batch, world, seed, window, shuffle):
    plan = Epoch(layout=layout, batch=batch, world=world, seed=seed, epoch=3, window_shards=window, shuffle=shuffle)
    assert _seen(plan) == Counter(range(layout.total))
    assert len({len(plan.steps(rank)) for rank in range(world)}) == 1


@given(n=st.integers(1, 200), batch=st.integers(2, 40), world=st.integers(1, 5))
def test_batches_are_nearly_equal_never_too_large_and_never_empty(n, batch, world):
    plan = Epoch(layout=_one(n), batch=batch, world=world)
    sizes = [len(step) for rank in range(world) for step in plan.steps(rank)]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 2
    if n >= world:
        assert min(sizes) >= 1
    assert plan.num_steps == -(-n // (world * batch))


@given(n=st.integers(1, 50), world=st.integers(1, 5))
def test_a_batch_of_one_leaves_no_rank_empty_handed(n, world):
    plan = Epoch(layout=_one(n), batch=1, world=world)
    sizes = [len(step) for rank in range(world) for step in plan.steps(rank)]
    assert n < world or min(sizes) == 1


@given(layout=LAYOUTS, window=WINDOWS, weights=st.sampled_from([1.0, 0.5, 1.5, 2.0]), data=st.data())
def test_going_on_in_another_world_sees_every_remaining_study_exactly_once(layout, window, weights, data):
    layout = Layout(shards=layout.shards, weights=(weights,) * len(layout.shards))
    settings = {"layout": layout, "seed": 1, "epoch": 2, "window_shards": window}
    whole = Counter(Epoch(batch=1, **settings).permutation().tolist())
    seen, consumed = Counter(), 0
    for _ in range(3):  # cut off twice
        world, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
        plan = Epoch(batch=batch, world=world, consumed=consumed, **settings)
        stop = data.draw(st.integers(0, plan.num_steps))
        seen.update(int(i) for rank in range(world) for step in plan.steps(rank)[:stop] for i in step)
        consumed = plan.consumed_before(stop)
        assert seen.total() == consumed
    rest = Epoch(batch=5, world=2, consumed=consumed, **settings)
    assert seen + _seen(rest) == whole


def test_one_step_alone_equals_the_step_in_the_whole_plan():
    plan = Epoch(layout=_one(53), batch=4, world=3, seed=9, epoch=1)
    for rank in range(3):
        for step, indices in enumerate(plan.steps(rank)):
            assert plan.indices(step, rank).tolist() == indices.tolist()


@given(shards=SHARDS, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_shards_change_nothing_where_everything_is_shuffled(shards, seed, epoch):
    plan = Epoch(layout=Layout(shards=(shards,), weights=(1.0,)), batch=3, seed=seed, epoch=epoch)
    assert plan.permutation().tolist() == epoch_permutation(sum(shards), seed=seed, epoch=epoch).tolist()


def test_the_order_is_fixed_for_ever():
    # Written down once: a change here would break every resumed run.
    assert epoch_permutation(8, seed=0, epoch=0).tolist() == EXPECTED_FIRST
    assert epoch_permutation(8, seed=0, epoch=1).tolist() != EXPECTED_FIRST
    assert epoch_permutation(8, seed=1, epoch=0).tolist() != EXPECTED_FIRST
    layout = Layout(shards=((3, 2), (2, 2, 2)), weights=(1.0, 1.5))
    mixed = Epoch(layout=layout, batch=4, window_shards=1, epoch=1, seed=7)
    assert mixed.permutation().tolist() == EXPECTED_MIXED
    assert [len(step) for step in mixed.steps()] == [3, 4, 3, 4]


def test_every_place_is_equally_likely():
    places = np.stack([epoch_permutation(5, seed=seed, epoch=0) for seed in range(4000)])
    counts = np.stack([np.bincount(places[:, place], minlength=5) for place in range(5)])
    # chi-squared with 16 degrees of freedom: 39.3 is the 99.9 % quantile
    assert ((counts - 800) ** 2 / 800).sum() < 39.3


@pytest.mark.parametrize("window", [None, 3])
def test_epochs_and_archives_are_not_related(window):
    layout = Layout(shards=((50,) * 40, (50,) * 40), weights=(1.0, 1.0))
    orders = []
    for epoch in range(2):
        order = Epoch(layout=layout, batch=8, seed=3, epoch=epoch, window_shards=window).permutation()
        orders += [np.argsort(order[order < 2000]), np.argsort(order[order >= 2000])]
    orders.append(np.arange(2000))
    # Whole shards move together in windows, so there are 40 of them rather than 2,000 studies to be unlike.
    related = np.corrcoef(orders)[np.triu_indices(5, 1)]
    assert np.abs(related).max() < (0.1 if window is None else 0.5)


def test_without_shuffling_the_order_is_the_shards():
    plan = Epoch(layout=_one(5, shards=2), batch=2, shuffle=False)
    assert [step.tolist() for step in plan.steps()] == [[0], [1, 2], [3, 4]]
    layout = Layout(shards=((3,), (4,)), weights=(0.5, 2.0))  # looking at a split is not weighted
    assert Epoch(layout=layout, batch=2, shuffle=False, window_shards=1).permutation().tolist() == list(range(7))


@given(n=st.integers(1, 40), weight=st.sampled_from([0.1, 0.25, 0.5, 0.7, 1 / 3, 1.0, 1.5, 2.0, 2.25]), window=WINDOWS)
def test_a_weight_is_kept_in_every_epoch_and_exactly_over_some(n, weight, window):
    layout = Layout(shards=(tuple(_one(n, shards=min(n, 3)).shards[0]),), weights=(weight,))
    exact = Fraction(weight).limit_denominator(100)
    total = Counter()
    for epoch in range(exact.denominator):
        plan = Epoch(layout=layout, batch=4, world=2, epoch=epoch, window_shards=window)
        seen = _seen(plan)
        assert set(seen.values()) | {0} <= {0, floor(weight), ceil(weight)}
        assert all(seen[study] >= floor(weight) for study in range(n))
        assert seen.total() == plan.num_studies == layout.length(epoch)
        assert layout.num_studies <= plan.num_studies <= layout.num_studies + 1
        total += seen
    assert total == Counter(dict.fromkeys(range(n), exact.numerator))


def test_a_part_of_an_archive_is_other_studies_the_next_time():
    layout = Layout(shards=((6,) * 4, (8, 8)), weights=(1.0, 0.25))
    parts = [set(_seen(Epoch(layout=layout, batch=4, epoch=epoch))) - set(range(24)) for epoch in range(4)]
    assert [len(part) for part in parts] == [4, 4, 4, 4]
    assert set.union(*parts) == set(range(24, 40))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 60), st.sampled_from([0.5, 1.0, 2.0])), min_size=2, max_size=5),
    batch=st.integers(1, 30), window=WINDOWS, epoch=st.integers(0, 3),
)  # fmt: skip
def test_every_step_holds_its_share_of_every_archive(sizes, batch, window, epoch):
    layout = Layout(shards=tuple((n,) for n, _ in sizes), weights=tuple(weight for _, weight in sizes))
    plan = Epoch(layout=layout, batch=batch, epoch=epoch, window_shards=window)
    bounds = np.cumsum([0, *(n for n, _ in sizes)])
    archive = np.searchsorted(bounds, plan.permutation(), side="right") - 1
    shares = np.bincount(archive, minlength=len(sizes)) / max(1, plan.num_studies)
    for step in plan.steps():
        held = np.bincount(np.searchsorted(bounds, step, side="right") - 1, minlength=len(sizes))
        assert (np.abs(held - shares * len(step)) < 1 + shares * (len(sizes) - 2) + 1e-9).all()


@given(shards=st.lists(SHARDS, min_size=1, max_size=3), window=st.integers(1, 3), epoch=st.integers(0, 3))
def test_few_shards_are_read_at_a_time(shards, window, epoch):
    layout = Layout(shards=tuple(shards), weights=(1.0,) * len(shards))
    order = Epoch(layout=layout, batch=4, epoch=epoch, window_shards=window).permutation().tolist()
    first = 0
    for sizes in shards:
        bounds = first + np.cumsum([0, *sizes])
        mine = [study for study in order if bounds[0] <= study < bounds[-1]]
        visited = [int(np.searchsorted(bounds, study, side="right")) - 1 for study in mine]
        first_read = {shard: visited.index(shard) for shard in visited}
        last_read = {shard: len(visited) - 1 - visited[::-1].index(shard) for shard in visited}
        at_once = [sum(first_read[s] <= place <= last_read[s] for s in first_read) for place in range(len(visited))]
        assert max(at_once) <= window
        first = bounds[-1]


def test_windows_mix_their_shards_and_differ_between_epochs():
    layout = _one(400, shards=8)
    one, two = (Epoch(layout=layout, batch=8, epoch=epoch, window_shards=2).permutation() // 50 for epoch in (0, 1))
    windows = [set(order[begin : begin + 100].tolist()) for order in (one, two) for begin in range(0, 400, 100)]
    assert all(len(window) == 2 for window in windows)
    assert {frozenset(window) for window in windows[:4]} != {frozenset(window) for window in windows[4:]}
    changes = [a != b for a, b in pairwise(one[:100])]
    assert 30 < sum(changes) < 70  # neither one shard after the other nor strictly by turns


def test_part_of_an_archive_in_windows_is_whole_shards():
    layout = Layout(shards=((10,) * 8,), weights=(0.25,))
    for epoch in range(4):
        seen = Epoch(layout=layout, batch=4, epoch=epoch, window_shards=2).permutation()
        assert len(set((seen // 10).tolist())) == 2
        assert len(set((seen[:8] // 10).tolist())) == 2  # one window, mixed


@given(
    layout=LAYOUTS, weights=st.sampled_from([1.0, 0.5, 0.3, 2.0]), batch=st.integers(1, 9), world=st.integers(1, 3),
    step=st.integers(0, 60), begin=st.integers(0, 3), data=st.data(),
)  # fmt: skip
def test_steps_have_an_address_without_epochs(layout, weights, batch, world, step, begin, data):
    layout = Layout(shards=layout.shards, weights=(weights,) * len(layout.shards))
    consumed = data.draw(st.integers(0, layout.length(begin)))
    addresses, epoch, left = [], begin, consumed
    while len(addresses) <= step:  # by counting
        steps = Epoch(layout=layout, batch=batch, world=world, epoch=epoch, consumed=left).num_steps
        addresses += [(epoch, position) for position in range(steps)]
        epoch, left = epoch + 1, 0
    found = find_step(layout, step, batch=batch, world=world, epoch=begin, consumed=consumed)
    assert found == addresses[step]


@pytest.mark.parametrize(("step", "rank"), [(9, 0), (0, 2)])
def test_there_is_no_such_step_or_rank(step, rank):
    with pytest.raises(AssertionError):
        Epoch(layout=_one(10), batch=2, world=2).indices(step, rank)
