"""Sums against plain arithmetic, and where there is nothing to sum."""

import math

import torch

from vlp.objectives import ALONE
from vlp.objectives.sums import log_sums, mean_of_both, over, softplus


def test_log_sums_run_over_members_alone():
    z = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], dtype=torch.float64)
    members = torch.tensor([[True, False, True], [True, False, False]])
    rows, columns = log_sums(z, members, ALONE)
    assert rows.tolist() == [math.log(1 + math.exp(2.0)), 3.0]
    torch.testing.assert_close(columns[[0, 2]], torch.tensor([math.log(1 + math.exp(3.0)), 2.0], dtype=torch.float64))


def test_a_sum_over_nothing_is_far_below_everything_and_has_a_gradient_of_zero():
    z = torch.zeros(2, 3, requires_grad=True)
    rows, columns = log_sums(z, torch.zeros(2, 3, dtype=torch.bool), ALONE)
    assert max(rows.max(), columns.max()) < -1e29
    softplus(rows).sum().backward()
    assert z.grad.abs().max() == 0


def test_softplus_is_exact_where_torchs_own_stops():
    value = torch.tensor([-800.0, 0.0, 25.0, 800.0], dtype=torch.float64)
    expected = [0.0, math.log(2.0), 25.0 + math.log1p(math.exp(-25.0)), 800.0]
    assert softplus(value).tolist() == expected


def test_over_nothing_is_what_was_added():
    assert over(torch.tensor(6.0), torch.tensor(4.0)).item() == 1.5
    assert over(torch.tensor(0.0), torch.tensor(0.0)).item() == 0.0


def test_what_weighs_nothing_may_cost_anything():
    rows, columns = torch.tensor([2.0, float("inf")]), torch.tensor([4.0, 8.0])
    loss = mean_of_both(rows, torch.tensor([1.0, 0.0]), columns, torch.tensor([1.0, 3.0]), ALONE)
    assert loss.item() == (2.0 + 7.0) / 2
