"""Which steps count, and when a run goes back."""

import math

import pytest
import torch

from vlp.train.guard import Guard, GuardConfig, is_finite


@pytest.mark.parametrize(
    ("steps", "back_at"),
    [
        ([True, True, True], [3]),
        ([True, True, False, True, True, False], []),
        ([False, True, True, True, True, True, True], [4, 7]),
    ],
)
def test_a_run_goes_back_after_so_many_steps_in_a_row(steps: list[bool], back_at: list[int]) -> None:
    guard = Guard(GuardConfig(patience=3))
    assert [number for number, skipped in enumerate(steps, start=1) if guard.too_many(skipped=skipped)] == back_at


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_out_of_range_is_enough(bad: float) -> None:
    assert is_finite(1.0, torch.tensor(2.0), torch.tensor(3.0, dtype=torch.float64))
    assert not is_finite(torch.tensor(1.0), bad)
    assert not is_finite(torch.tensor(bad), 1.0)
    assert is_finite(torch.tensor(3e38)), "large is not infinite"
