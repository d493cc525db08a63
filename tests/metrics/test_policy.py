import pytest

from vlp.metrics.policy import apply_policy
from vlp.records import Certainty

FOUR = [Certainty.PRESENT, "absent", "uncertain", None]


@pytest.mark.parametrize(("policy", "expected"), [("ignore", -1), ("positive", 1), ("negative", 0)])
def test_only_uncertain_depends_on_the_policy(policy, expected: int) -> None:
    assert apply_policy(FOUR, policy).tolist() == [1, 0, expected, -1]


def test_unknown_words_are_not_taken_for_absent() -> None:
    with pytest.raises(ValueError, match="maybe"):
        apply_policy(["maybe"], "ignore")
