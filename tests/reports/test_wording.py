import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.wording import training_text


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("The bones are intact.", "The bones are intact."),
        ("The bones\n are   intact.", "The bones are intact."),
        ("Surgical clips are again seen.", "Surgical clips are seen."),
        ("Again seen are surgical clips.", "Seen are surgical clips."),
        ("Stable degenerative changes of the spine.", "Degenerative changes of the spine."),
        ("Degenerative changes of the spine, unchanged.", "Degenerative changes of the spine."),
        ("Degenerative changes of the spine, stable since the prior study.", "Degenerative changes of the spine."),
        ("As compared to the previous radiograph, the lung volumes are low.", "The lung volumes are low."),
        ("Elevated hemidiaphragm compared to ___.", "Elevated hemidiaphragm."),
        ("Lung volumes remain low.", "Lung volumes are low."),
        ("The trachea remains midline.", "The trachea is midline."),
        ("The mediastinum is stable and midline.", "The mediastinum is midline."),
        ("Mild changes are similar along the spine.", "Mild changes along the spine."),
        ("s/p CABG w/o complication", "status post coronary artery bypass grafting without complication"),
        ("LUL volume loss, XXXX.", "left upper lobe volume loss, ___."),
        ("s/p left lobectomy w/volume loss", "status post left lobectomy with volume loss"),
    ],
)  # fmt: skip
def test_what_is_said_of_now_stays(written, text):
    assert training_text(written) == text


@pytest.mark.parametrize(
    "written",
    [
        "No change.", "Unchanged.", "Stable.", "Stable chest.", "STABLE APPEARANCE OF THE CHEST.",
        "No significant interval change.", "No significant change compared to prior.", "No interval change since ___.",
        "Heart size is stable.", "The cardiomediastinal silhouette is unchanged.", "Aeration has improved.",
        "Improved aeration of the left base.", "Interval improvement in aeration.", "Lung volumes have decreased.",
        "There is no relevant change as compared to the previous radiograph.", "The heart is not much changed.",
        "Appearance is similar to the prior examination.", "___", "", " ", "3.5", "Findings as before.",
    ],
)  # fmt: skip
def test_a_sentence_that_only_compares_has_no_training_text(written):
    assert training_text(written) is None


PIECES = st.sampled_from(
    ["no", "stable", "unchanged", "the heart", ",", ".", "since", "prior", "is", "new", "w/o", "___", "clips"]
)


@given(st.text() | st.lists(PIECES, max_size=20).map(" ".join))
def test_any_sentence_has_a_text_without_loose_space_or_none(written):
    text = training_text(written)
    assert text is None or (text.strip() == text and text)


@pytest.mark.parametrize(
    "piece", ["compared to ", "no ", "_", "stable, ", "since the prior ", "is unchanged ", " ,", "x."]
)
def test_a_long_sentence_ends_soon(piece):
    started = time.perf_counter()
    training_text(piece * 20_000)
    assert time.perf_counter() - started < 2
