import json
from collections import Counter

import pytest

from vlp.data.journal import Refused
from vlp.errors import DataError
from vlp.ingest.folder import FolderSource
from vlp.ingest.quarantine import Budget, CountsLeftOut, Tally, is_left_out, unit_hash


def _tally(**codes: int) -> Tally:
    refused = [
        Refused(unit="u", code=code, message=f"{code} {n}") for code, count in codes.items() for n in range(count)
    ]
    return Tally(refused=refused)


def _judge(tally: Tally, budget: Budget, *, studies: int = 98, mute: int = 0) -> None:
    tally.judge(budget, studies=studies, mute=mute)


def test_a_budget_is_a_share_of_what_was_read():
    _judge(_tally(bad=2), Budget(total=0.02))  # 2 of 100
    with pytest.raises(
        DataError, match=r"2 of 99 studies cannot be used \(2 bad\), more than error_budget 0\.02 allow"
    ):
        _judge(_tally(bad=2), Budget(total=0.02), studies=97)


def test_codes_with_a_budget_of_their_own_count_for_themselves():
    budget = Budget(total=0.0, by_code={"missing_image": 0.05})
    _judge(_tally(missing_image=2), budget)
    with pytest.raises(DataError, match=r"\(2 missing_image, 1 bad_row\), more than error_budget 0 .*first: bad_row 0"):
        _judge(_tally(missing_image=2, bad_row=1), budget)
    with pytest.raises(DataError, match=r"more than fault_budgets\.missing_image 0\.05 allows; first: missing_image 0"):
        _judge(_tally(missing_image=9), budget)
    assert Budget(total=0.5, by_code={"never": 0.0}).exceeded({}, 10) is None


def test_nothing_left_and_nothing_said():
    with pytest.raises(DataError, match="holds no study: 3 were left out by the recipe"):
        _judge(Tally(left_out=Counter(excluded=3)), Budget(total=1.0), studies=0)
    with pytest.raises(DataError, match=r"holds no study$"):
        _judge(Tally(), Budget(total=1.0), studies=0)
    with pytest.raises(DataError, match="none of the 98 studies has a sentence"):
        _judge(Tally(), Budget(total=1.0), mute=98)
    _judge(Tally(), Budget(total=1.0), mute=97)


def test_the_file_has_a_line_per_study():
    tally = _tally(bad=2, worse=1)
    lines = [json.loads(line) for line in tally.lines().splitlines()]
    assert lines[0] == {"unit": "u", "code": "bad", "message": "bad 0"}
    assert [line["code"] for line in lines] == ["bad", "bad", "worse"]
    assert tally.faults == {"bad": 2, "worse": 1}
    assert Tally().lines() == b""


def test_people_are_shown_a_few():
    assert _tally(bad=2).shown() == "bad 0; bad 1"
    assert _tally(bad=7).shown() == "bad 0; bad 1; bad 2; bad 3; bad 4; and 2 more"


@pytest.mark.parametrize(
    ("code", "left_out"),
    [("excluded", True), ("excluded_view", True), ("excludedly", False), ("missing_image", False)],
)
def test_rules_are_told_from_faults(code, left_out):
    assert is_left_out(code) is left_out


def test_units_are_hashed_with_the_salt():
    assert unit_hash("patient-7", "a") == unit_hash("patient-7", "a") != unit_hash("patient-7", "b")
    assert unit_hash("patient-7", "a") != unit_hash("patient-8", "a")
    assert "patient" not in unit_hash("patient-7", "a")
    unit_hash("half \ud800", "a")  # an archive may name its patients as badly as it likes


def test_sources_may_count_what_they_leave_out(tmp_path):
    class Counting(FolderSource):
        def left_out(self) -> dict[str, int]:
            return {"lateral": 3}

    assert isinstance(Counting(path=tmp_path), CountsLeftOut)
    assert not isinstance(object(), CountsLeftOut)
