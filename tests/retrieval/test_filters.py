import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlp.errors import DataError
from vlp.retrieval.filters import CaseFacts, Filter

FACTS = CaseFacts(
    pd.DataFrame(
        {
            "key": list("abcdef"),
            "present": [("mass", "pneumonia"), ("mass",), (), (), ("pneumonia",), ()],
            "uncertain": [(), ("pneumonia",), ("mass",), (), (), ()],
            "absent": [(), (), ("pneumonia",), ("mass", "pneumonia"), (), ()],
            "view": ["PA", "AP", "PA", "lateral", "PA", "AP"],
            "sex": ["F", "M", None, "F", "M", "F"],
            "age": [40.0, 60.9, np.nan, 39.9, 61.0, 50.0],
            "split": ["train", "train", "val", "test", "train", "train"],
            "source": ["one", "one", "two", "two", "two", "one"],
            "date": ["2019-05-03", "2019-12-31", "2020-01-01", None, "2020-06-30", "2021-02-02"],
            "groups": [{"site": "north"}, {"site": "south"}, {}, {"site": "north", "scanner": "x"}, {}, {}],
        }
    )
)


@pytest.mark.parametrize(
    ("texts", "keys"),
    [
        ((), "abcdef"),
        (("finding=pneumonia",), "ae"),
        (("finding=Pneumonia",), "ae"),
        (("finding=pneumonia", "certainty=uncertain"), "b"),
        (("finding=pneumonia", "certainty=present,uncertain"), "abe"),
        (("finding=pneumonia", "certainty=absent"), "cd"),
        (("finding=pneumonia", "certainty=unmentioned"), "f"),
        (("finding=mass", "finding=pneumonia"), "a"),
        (("finding=mass,pneumonia",), "abe"),
        (("not finding=pneumonia",), "bcdf"),
        (("view=PA",), "ace"),
        (("view=PA,AP",), "abcef"),
        (("not view=lateral",), "abcef"),
        (("sex=F",), "adf"),
        (("not sex=F",), "be"),  # of c it is not known
        (("age=40..60",), "abf"),  # somebody of 60.9 years is 60
        (("age=..39",), "d"),
        (("age=61..",), "e"),
        (("age=50",), "f"),
        (("not age=40..60",), "de"),
        (("site=north",), "ad"),
        (("not site=north",), "b"),
        (("scanner=x",), "d"),
        (("split=val,test", "source=two"), "cd"),
        (("date=2019",), "ab"),
        (("date=2019-12..2020",), "bce"),
        (("date=..2020-01-01",), "abc"),
        (("date=2020-01-02..",), "ef"),
        ((" not  view = PA , AP ",), "d"),
    ],
)
def test_terms(texts: tuple[str, ...], keys: str) -> None:
    mask = Filter.parse(*texts).rows(FACTS)
    assert "".join(FACTS.cases["key"][mask]) == keys


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pneumonia", "expected name=value"),
        ("=x", "expected name=value"),
        ("view=", "expected name=value"),
        ("view=,", "expected a value"),
        ("view=pa", "values are PA, AP"),
        ("sex=female", "values are F, M"),
        ("split=training", "values are train"),
        ("certainty=sure", "values are present"),
        ("certainty=absent", "of which finding"),
        ("age=old", "expected years"),
        ("age=..", "one value or a range"),
        ("age=60..40", "ends before it begins"),
        ("age=nan", "expected years"),
        ("date=1.2.2019", "expected YYYY-MM-DD"),
        ("date=2019-5", "expected YYYY-MM-DD"),
    ],
)
def test_what_is_no_filter_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        Filter.parse(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sight=north", "sight: nothing of this name.*did you mean site"),
        ("site=norh", "site=norh: no case here has it; did you mean north"),
        ("finding=pneumonja", "no case here has a label of it; did you mean pneumonia"),
        ("finding=nodule", "no case here has a label of it; there are mass, pneumonia"),
        ("source=three", "source=three: no case here has it; .*one"),
        ("person=p", "person: nothing of this name"),
    ],
)
def test_what_no_case_has_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Filter.parse(text).rows(FACTS)


def test_an_archive_without_dates_says_so() -> None:
    undated = CaseFacts(FACTS.cases.assign(date=None))
    with pytest.raises(DataError, match="date: no case here has one"):
        Filter.parse("date=2019").rows(undated)


def test_certainty_is_given_once_and_plainly() -> None:
    for texts in (("finding=mass", "certainty=absent", "certainty=present"), ("finding=mass", "not certainty=absent")):
        with pytest.raises(DataError, match="give it once"):
            Filter.parse(*texts)


_TERMS = ["finding=mass", "not finding=mass,pneumonia", "view=PA,AP", "not sex=M", "age=40..", "date=2019..2020",
          "site=south", "certainty=absent,unmentioned"]  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(_TERMS[:-1]), unique=True), st.booleans())
def test_terms_are_joined_by_and_and_read_back(texts: list[str], stated: bool) -> None:
    texts = [*texts, _TERMS[-1]] if stated and any("finding" in text for text in texts) else texts
    parsed = Filter.parse(*texts)
    certainty = [text for text in texts if text.startswith("certainty")]
    single = [Filter.parse(text, *(certainty if "finding" in text else [])).rows(FACTS)
              for text in texts if text not in certainty]  # fmt: skip
    expected = np.logical_and.reduce([np.ones(6, bool), *single])
    assert (parsed.rows(FACTS) == expected).all()
    assert Filter.parse(*str(parsed).split(", ")) == parsed if texts else str(parsed) == ""
