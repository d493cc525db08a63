from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.order import Epoch, epoch_permutation

EXPECTED_FIRST = [0, 1, 6, 3, 5, 4, 2, 7]


@given(n=st.integers(0, 200), batch=st.integers(1, 40), world=st.integers(1, 5), seed=st.integers(-5, 10**12))
def test_every_study_exactly_once_whatever_the_world_and_batch(n, batch, world, seed):
    plan = Epoch(num_studies=n, batch=batch, world=world, seed=seed, epoch=3)
    seen = Counter(int(index) for rank in range(world) for step in plan.steps(rank) for index in step)
    assert seen == Counter(range(n))
    assert len({len(plan.steps(rank)) for rank in range(world)}) == 1


@given(n=st.integers(1, 200), batch=st.integers(2, 40), world=st.integers(1, 5))
def test_batches_are_nearly_equal_never_too_large_and_never_empty(n, batch, world):
    plan = Epoch(num_studies=n, batch=batch, world=world)
    sizes = [len(step) for rank in range(world) for step in plan.steps(rank)]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 2
    if n >= world:
        assert min(sizes) >= 1
    assert plan.num_steps == -(-n // (world * batch))


@given(n=st.integers(1, 50), world=st.integers(1, 5))
def test_a_batch_of_one_leaves_no_rank_empty_handed(n, world):
    plan = Epoch(num_studies=n, batch=1, world=world)
    sizes = [len(step) for rank in range(world) for step in plan.steps(rank)]
    assert n < world or min(sizes) == 1


@given(n=st.integers(1, 120), batch=st.integers(1, 12), world=st.integers(1, 4), data=st.data())
def test_going_on_in_another_world_sees_every_remaining_study_exactly_once(n, batch, world, data):
    before = Epoch(num_studies=n, batch=batch, world=world, seed=1, epoch=2)
    stop = data.draw(st.integers(0, before.num_steps))
    seen = [int(i) for rank in range(world) for step in before.steps(rank)[:stop] for i in step]
    consumed = before.consumed_before(stop)
    assert len(seen) == consumed
    new_world, new_batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    after = Epoch(num_studies=n, batch=new_batch, world=new_world, seed=1, epoch=2, consumed=consumed)
    seen += [int(i) for rank in range(new_world) for step in after.steps(rank) for i in step]
    assert Counter(seen) == Counter(range(n))


def test_one_step_alone_equals_the_step_in_the_whole_plan():
    plan = Epoch(num_studies=53, batch=4, world=3, seed=9, epoch=1)
    for rank in range(3):
        for step, indices in enumerate(plan.steps(rank)):
            assert plan.indices(step, rank).tolist() == indices.tolist()


def test_the_order_is_fixed_for_ever():
    # Written down once: a change here would break every resumed run.
    assert epoch_permutation(8, seed=0, epoch=0).tolist() == EXPECTED_FIRST
    assert epoch_permutation(8, seed=0, epoch=1).tolist() != EXPECTED_FIRST
    assert epoch_permutation(8, seed=1, epoch=0).tolist() != EXPECTED_FIRST


def test_every_place_is_equally_likely():
    places = np.stack([epoch_permutation(5, seed=seed, epoch=0) for seed in range(4000)])
    counts = np.stack([np.bincount(places[:, place], minlength=5) for place in range(5)])
    # chi-squared with 16 degrees of freedom: 39.3 is the 99.9 % quantile
    assert ((counts - 800) ** 2 / 800).sum() < 39.3


def test_epochs_are_not_related():
    first, second = epoch_permutation(2000, seed=3, epoch=0), epoch_permutation(2000, seed=3, epoch=1)
    assert abs(np.corrcoef(np.argsort(first), np.argsort(second))[0, 1]) < 0.1
    assert abs(np.corrcoef(first, np.arange(2000))[0, 1]) < 0.1


def test_without_shuffling_the_order_is_the_shards():
    plan = Epoch(num_studies=5, batch=2, shuffle=False)
    assert [step.tolist() for step in plan.steps()] == [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize(("step", "rank"), [(9, 0), (0, 2)])
def test_there_is_no_such_step_or_rank(step, rank):
    with pytest.raises(AssertionError):
        Epoch(num_studies=10, batch=2, world=2).indices(step, rank)
