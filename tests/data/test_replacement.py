import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.order import epoch_permutation
from vlp.data.replacement import stand_ins


@given(
    studies=st.integers(2, 300),
    failed=st.integers(0, 299),
    seed=st.integers(-5, 2**40),
    epoch=st.integers(0, 1000),
)
def test_stand_ins_are_other_studies_of_the_epoch_each_once(studies, failed, seed, epoch):
    order = epoch_permutation(studies, seed=seed, epoch=epoch)[: max(2, studies // 2)]
    failed = int(order[failed % len(order)])
    chosen = list(stand_ins(order, failed=failed, seed=seed, epoch=epoch))
    assert failed not in chosen
    assert set(chosen) <= set(order.tolist())
    assert len(set(chosen)) == len(chosen) <= 8
    assert chosen == list(stand_ins(order, failed=failed, seed=seed, epoch=epoch))


def test_they_depend_on_everything_and_are_spread():
    order = np.arange(1000)

    def first(**changes):
        return next(stand_ins(order, **{"failed": 7, "seed": 0, "epoch": 0} | changes))

    assert len({first(), first(failed=8), first(seed=1), first(epoch=1)}) == 4
    firsts = [first(failed=failed) for failed in range(1000)]
    assert 580 < len(set(firsts)) < 680  # 1 - 1/e of them, as for dice


def test_a_study_alone_has_nobody_to_stand_in():
    assert list(stand_ins(np.array([3, 3]), failed=3, seed=0, epoch=0)) == []
