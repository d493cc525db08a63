import dataclasses

import pytest

from vlp.metrics.estimate import Estimate, format_interval


def test_interval_reads_as_people_write_it() -> None:
    assert format_interval(0.91234, 0.88, 0.9412) == "0.912 [0.880, 0.941]"
    assert format_interval(0.5, None, None) == "0.500 [n/a]"


def test_undefined_is_never_shown_as_a_number() -> None:
    estimate = Estimate(value=None, n=4, n_patients=4, method="none", reason="one_class")
    assert str(estimate) == "n/a"


def test_estimates_cannot_be_edited_after_the_fact() -> None:
    estimate = Estimate(value=0.5, n=1, n_patients=1, method="none")
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 0.99
