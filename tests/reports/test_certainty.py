import pytest

from vlp.records import Certainty
from vlp.reports.certainty import Mention, Verdict, judge
from vlp.reports.phrases import find_words
from vlp.reports.reader import read

PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


def said(text):
    return {sentence.finding: sentence.certainty for sentence in read(text) if sentence.finding}


@pytest.mark.parametrize(
    "text",
    [
        "There is no pneumothorax.",
        "No evidence of pneumothorax.",
        "Without pneumothorax.",
        "Negative for pneumothorax.",
        "Both lungs are free of pneumothorax.",
        "The lungs are clear of pneumothorax.",
        "Pneumothorax is not seen.",
        "Pneumothorax is no longer visualized.",
        "There is no longer a pneumothorax.",
        "The right pneumothorax has resolved.",
        "Interval resolution of the right pneumothorax.",
        "Pneumothorax has been ruled out.",
        "Pneumothorax is unlikely.",
        "Unlikely to represent pneumothorax.",
        "Pneumothorax: none.",
        "No definite pneumothorax.",
        "No new pneumothorax.",
        "No effusion or pneumothorax.",
        "No effusion, consolidation, or pneumothorax.",
        "No focal consolidation, large effusion or pneumothorax.",
        "There is neither effusion nor pneumothorax.",
        "Cardiomegaly without pneumothorax.",
        "NO PNEUMOTHORAX",
        "PLEURA: No pneumothorax.",
        "PLEURA: Negative for pneumothorax.",
        "Doubt pneumothorax.",
        "Resolved pneumothorax.",
        "No residual pneumothorax.",
        "Without interval development of pneumothorax.",
        "Prior pneumothorax has resolved.",
        "Previous pneumothorax is no longer seen.",
        "No effusion or pneumothorax status post line placement.",
        "s/p left thoracentesis w/o pneumothorax.",
    ],
)
def test_denied(text):
    assert said(text)["pneumothorax"] is ABSENT


@pytest.mark.parametrize(
    "text",
    [
        "Small pneumothorax.",
        "No change in the pneumothorax.",
        "No significant interval change in right pneumothorax.",
        "Pneumothorax is not significantly changed.",
        "Probable pneumothorax.",
        "Likely pneumothorax.",
        "Findings consistent with pneumothorax.",
        "Lucency compatible with pneumothorax.",
        "Pneumothorax versus skin fold.",
        "No effusion, but there is a pneumothorax.",
        "No effusion, small pneumothorax.",
        "No effusion. Pneumothorax.",
        "Pneumothorax, not seen on the prior study.",
        "The effusion has resolved but pneumothorax persists.",
        "There is a pneumothorax, effusion is not seen.",
        "Not only effusion but also pneumothorax.",
        "No longer any effusion, although the pneumothorax persists.",
        "Pneumothorax has nearly resolved.",
        "Near-complete resolution of the pneumothorax.",
        "Partial resolution of pneumothorax.",
        "The pneumothorax has not completely resolved.",
        "No worsening of the pneumothorax.",
        "Previously seen pneumothorax is unchanged.",
        "Prior pneumothorax is smaller.",
        "There is no doubt about the pneumothorax.",
        "The pneumothorax was seen on the prior study and is unchanged.",
    ],
)
def test_affirmed(text):
    assert said(text)["pneumothorax"] is PRESENT


@pytest.mark.parametrize(
    "text",
    [
        "Possible pneumothorax.",
        "There may be a pneumothorax.",
        "This could represent pneumothorax.",
        "Cannot exclude pneumothorax.",
        "Pneumothorax cannot be excluded.",
        "A small pneumothorax is not excluded.",
        "Pneumothorax is difficult to exclude.",
        "Questionable pneumothorax.",
        "Suspicious for pneumothorax.",
        "Lucency concerning for pneumothorax.",
        "Pneumothorax is possible.",
        "No effusion, although a small pneumothorax could be missed.",
        "No consolidation; possible pneumothorax.",
        "Differential diagnosis includes pneumothorax.",
        "Differential diagnosis includes skin fold, small pneumothorax, bulla.",
        "Pneumothorax is unlikely but not excluded.",
        "It is unclear whether this represents a pneumothorax.",
        "Lucency, ? pneumothorax.",
        "? pneumothorax",
        "Pneumothorax?",
        "Suspected pneumothorax.",
    ],
)
def test_left_open(text):
    assert said(text)["pneumothorax"] is UNCERTAIN


@pytest.mark.parametrize(
    "text",
    [
        "History of pneumonia.",
        "Evaluate for pneumonia.",
        "Rule out pneumonia.",
        "Exclude pneumonia.",
        "If there is concern for pneumonia, repeat.",
        "R/o pneumonia.",
        "Family history of pneumonia.",
        "Status post treatment for pneumonia.",
        "s/p pneumonia.",
        "From prior pneumonia.",
        "Recommend CT to exclude pneumonia.",
        "Follow-up is recommended to document resolution of pneumonia.",
        "Recommend correlation for pneumonia.",
        "Consider CT if clinically concerned for pneumonia.",
        "Pneumonia was seen on the prior CT.",
    ],
)
def test_the_past_the_supposed_and_the_advised_state_nothing(text):
    assert said(text) == {}


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("History of pneumonia with persistent effusion.", {"pleural effusion": PRESENT}),
        ("Status post CABG with small effusion.", {"pleural effusion": PRESENT}),
        ("Status post pacemaker placement.", {"support device": PRESENT}),
        ("Status post removal of the chest tube, no effusion.", {"support device": ABSENT, "pleural effusion": ABSENT}),
        ("No effusion s/p chest tube placement.", {"pleural effusion": ABSENT, "support device": PRESENT}),
        ("The ETT has been withdrawn.", {"support device": ABSENT}),
        ("The ETT has been withdrawn by 2 cm.", {"support device": PRESENT}),
        ("Scarring from prior pneumonia.", {"scarring": PRESENT}),
        ("Prior granulomatous disease.", {"granuloma": PRESENT}),
        ("Old rib fractures.", {"fracture": PRESENT}),
        ("Comparison with the prior study, effusion.", {"pleural effusion": PRESENT}),
    ],
)
def test_what_the_past_leaves_behind_is_there(text, findings):
    assert said(text) == findings


def test_a_denial_of_news_gives_way_to_plain_words():
    assert said("No new opacity.") == {"lung opacity": ABSENT}
    for text in ("No new opacity. Stable left opacity.", "Left opacity. The lungs are otherwise clear."):
        assert [one.certainty for one in read(text) if one.finding == "lung opacity"] == [PRESENT]
    assert {one.certainty for one in read("No opacity. Left opacity.") if one.finding} == {ABSENT, PRESENT}


def test_each_finding_of_a_sentence_is_judged_by_itself():
    assert said("No pneumothorax, mild cardiomegaly, possible effusion but no edema.") == {
        "pneumothorax": ABSENT,
        "cardiomegaly": PRESENT,
        "pleural effusion": UNCERTAIN,
        "edema": ABSENT,
    }


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("The heart is enlarged.", PRESENT),
        ("The heart is mildly enlarged.", PRESENT),
        ("The heart is not enlarged.", ABSENT),
        ("The heart is no longer enlarged.", ABSENT),
        ("Heart size is normal.", ABSENT),
        ("Normal heart size.", ABSENT),
        ("The cardiomediastinal silhouette is within normal limits.", ABSENT),
        ("No effusion, heart is enlarged.", PRESENT),
        ("No effusion, heart size is normal.", ABSENT),
        ("Heart size is borderline enlarged.", PRESENT),
        ("Borderline heart size.", UNCERTAIN),
        ("The heart is not normal.", UNCERTAIN),
    ],
)
def test_the_size_of_the_heart(text, certainty):
    assert said(text)["cardiomegaly"] is certainty


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("No acute cardiopulmonary process.", PRESENT),
        ("No evidence of acute cardiopulmonary disease.", PRESENT),
        ("Normal chest.", PRESENT),
        ("There is an acute cardiopulmonary abnormality.", ABSENT),
        ("There may be an acute cardiopulmonary abnormality.", UNCERTAIN),
    ],
)
def test_no_finding_reads_the_other_way_round(text, certainty):
    assert said(text) == {"no finding": certainty}


def test_a_cue_reaches_no_further_than_sixty_words():
    words = [word.form for word in find_words("no " + "word " * 80 + "edema", 0, 406)]
    assert judge(words, [Mention("edema", "mention", 81, 82)]) == [Verdict(PRESENT)]
    assert judge(["no", "edema"], [Mention("edema", "mention", 1, 2)]) == [Verdict(ABSENT)]
    assert judge(["no", "new", "edema"], [Mention("edema", "mention", 2, 3)]) == [Verdict(ABSENT, tentative=True)]
    assert judge(["if", "edema"], [Mention("edema", "mention", 1, 2)]) == [None]
