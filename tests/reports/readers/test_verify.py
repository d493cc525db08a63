import pytest

from vlp.records import Certainty
from vlp.reports.reader import Statement
from vlp.reports.readers.prompt import Said
from vlp.reports.readers.verify import verify

SENTENCES = ["Small left\n pleural effusion.", "No pneumothorax.", "Opacities at the bases, the heart is large."]


def said(sentence, quote, finding, certainty="present", **place):
    return Said(sentence=sentence, quote=quote, finding=finding, certainty=certainty, **place)


def check(one, *, contradictions=False):
    kept, dropped = verify([one], SENTENCES, contradictions=contradictions)
    return [statement for statements in kept for statement in statements], dict(dropped)


def test_what_stands_in_its_sentence_is_kept():
    kept, dropped = check(said(0, "small LEFT pleural effusion", "pleural effusion", side="left", severity="small"))
    assert kept == [Statement("pleural effusion", Certainty.PRESENT, "left", "small")]
    assert not dropped
    assert check(said(1, "No pneumothorax", "Pneumothorax", "absent", severity="large"))[0] == [
        Statement("pneumothorax", Certainty.ABSENT)
    ]
    assert check(said(2, "Opacities at the bases", "lung opacity", side="bilateral", zone="base"))[0] == [
        Statement("lung opacity", Certainty.PRESENT, "bilateral base")
    ]
    assert check(said(2, "the heart is large", "cardiomegaly"))[0] == [Statement("cardiomegaly", Certainty.PRESENT)]


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (said(3, "effusion", "pleural effusion"), "no such sentence"),
        (said(-1, "effusion", "pleural effusion"), "no such sentence"),
        (said(0, "pneumothorax", "pneumothorax"), "not in the text"),
        (said(1, "pleural effusion", "pleural effusion"), "not in the text"),
        (said(0, "", "pleural effusion"), "not in the text"),
        (said(0, ".", "pleural effusion"), "not in the text"),
        (said(0, "effusion", "gout"), "unknown finding"),
        (said(0, "effusion", "pleural effusion", side="right"), "place not in the text"),
        (said(0, "effusion", "pleural effusion", side="bilateral"), "place not in the text"),
        (said(0, "effusion", "pleural effusion", zone="base"), "place not in the text"),
        (said(1, "pneumothorax", "pneumothorax"), "contradicts the words"),
        (said(0, "effusion", "pleural effusion", "absent"), "contradicts the words"),
    ],
)
def test_what_does_not_is_dropped_and_counted(one, reason):
    assert check(one) == ([], {reason: 1})


def test_doubt_is_no_contradiction_and_contradictions_may_be_let_through():
    assert check(said(1, "pneumothorax", "pneumothorax", "uncertain"))[1] == {}
    assert check(said(1, "pneumothorax", "pneumothorax"), contradictions=True)[0][0].certainty is Certainty.PRESENT


def test_the_same_twice_is_kept_once_and_sentences_stay_apart():
    one = said(0, "effusion", "pleural effusion")
    kept, dropped = verify(
        [one, one, said(1, "pneumothorax", "pneumothorax", "absent")], SENTENCES, contradictions=False
    )
    assert [len(statements) for statements in kept] == [1, 1, 0]
    assert not dropped
