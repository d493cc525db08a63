import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.ingest.privacy.dates import DateSpan, find_dates, shift_days, shifted

DAYS = st.dates(datetime.date(1961, 1, 1), datetime.date(2058, 1, 1))
FORMS = (
    "%m/%d/%Y",
    "%m/%d/%y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%Y%m%d",
    "%B %d, %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%d-%b-%Y",
    "%d%b%Y",
    "%B %d %Y",
    "%b. %d, %Y",
    "%Y-%m-%dT08:15:00",
)


def _values(text: str, order="month_first") -> list[datetime.date | None]:
    return [span.value for span in find_dates(text, order=order)]


@given(DAYS, st.sampled_from(FORMS))
def test_a_date_is_read_as_what_it_says(day, form):
    text = f"Comparison: chest radiograph {day.strftime(form)}, two views."
    spans = list(find_dates(text))
    assert [span.value for span in spans] == [day]
    assert text[spans[0].start : spans[0].end] == day.strftime(form)


@pytest.mark.parametrize(
    ("text", "order", "day"),
    [
        ("3/4/2019", "month_first", (2019, 3, 4)),
        ("3/4/2019", "day_first", (2019, 4, 3)),
        ("14/3/2019", "month_first", (2019, 3, 14)),
        ("3/14/2019", "day_first", (2019, 3, 14)),
        ("1/2/59", "month_first", (2059, 1, 2)),
        ("1/2/60", "month_first", (1960, 1, 2)),
        ("14 de marzo de 2016", "day_first", (2016, 3, 14)),
        ("12. März 2014", "day_first", (2014, 3, 12)),
        ("the 7th of June 2015", "month_first", (2015, 6, 7)),
    ],
)
def test_orders_years_and_languages(text, order, day):
    assert _values(text, order) == [datetime.date(*day)]


@pytest.mark.parametrize(
    "text",
    ["October 2021", "10/2013", "Nov 3", "2 Feb", "on 4/17 with", "comparison 3/4", "Sept. 9th", "March 2019"],
)
def test_partial_dates_are_found_without_a_day(text):
    assert _values(f"x {text} y") == [None]


@pytest.mark.parametrize(
    "text",
    [
        "2/6 ribs",
        "T11/12",
        "in 2012",
        "31/31/2019 is none",
        "2019-02-30",
        "may 12 mm nodules",
        "March fracture",
        "5.5.5",
        "1.2.840.10008.1",
        "12-14 mm",
        "at 13:45",
        "120/80",
        "3/4 of the lung",
        "since 3/4 of the lung",
        "617-555-0143",
        "8/10/12/14 French",
    ],
)
def test_what_is_no_date(text):
    assert _values(text) == []


@given(st.binary(min_size=32, max_size=32), st.integers(1, 3650))
def test_a_shift_is_whole_days_in_range_and_never_none(digest, max_days):
    days = shift_days(digest, max_days=max_days)
    assert isinstance(days, int)
    assert 1 <= abs(days) <= max_days


def test_shifts_are_even():
    found = [
        shift_days(((2 * number + 1) * 2**64 // 120).to_bytes(8, "big") + bytes(24), max_days=3) for number in range(60)
    ]
    assert {days: found.count(days) for days in set(found)} == dict.fromkeys((-3, -2, -1, 1, 2, 3), 10)


@given(DAYS, DAYS, st.integers(-365, 365), st.sampled_from(FORMS), st.sampled_from(["month_first", "day_first"]))
def test_moved_dates_keep_length_and_intervals(one, other, days, form, order):
    if order == "day_first":
        form = form.replace("%m/%d", "%d/%m")
    text = f"Seen {one.strftime(form)} and {other.strftime(form)}."
    moved = text
    spans = list(find_dates(text, order=order))
    for span in spans:
        new = shifted(text, span, days=days, order=order)
        if new is None:
            return  # masked by the caller: nothing wrong can be read
        assert len(new) == span.end - span.start
        moved = moved[: span.start] + new + moved[span.end :]
    assert len(moved) == len(text)
    assert _values(moved, order) == [span.value + datetime.timedelta(days=days) for span in spans if span.value]


def test_most_forms_fit_when_moved():
    day = datetime.date(2016, 1, 7)
    for form in FORMS:
        text = day.strftime(form)
        for days in (-200, -3, 40, 300):
            (span,) = find_dates(text)
            assert shifted(text, span, days=days) is not None, (form, days)


def test_what_does_not_fit_or_has_no_day_is_not_moved():
    (span,) = find_dates("1/2/19")
    assert shifted("1/2/19", span, days=-40) is None  # 11/23/18 needs two characters more
    assert shifted("1/2/19", span, days=5) == "1/7/19"
    (span,) = find_dates("March 2019")
    assert shifted("March 2019", span, days=5) is None
    far = DateSpan(start=0, end=10, value=datetime.date(9999, 12, 31))
    assert shifted("9999-12-31", far, days=5) is None
