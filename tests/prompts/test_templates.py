import re

import pytest

from vlp.errors import ConfigError
from vlp.prompts.templates import ENSEMBLES, TEMPLATES, ensemble, paraphrases
from vlp.records import Certainty
from vlp.reports import read, sentence_text
from vlp.reports.findings import VOCABULARY


@pytest.mark.parametrize("finding", list(VOCABULARY))
def test_every_wording_of_every_finding_is_read_as_what_it_says(finding: str) -> None:
    for ask in paraphrases(finding):
        for side, certainty in ((ask.positives, Certainty.PRESENT), (ask.negatives, Certainty.ABSENT)):
            (text,) = side
            assert {(one.finding, one.certainty) for one in read(text)} == {(finding, certainty)}, text
            assert not re.search(r"[{}]|  |\ba [aeiou]|\ban [^aeiou]", text), text
            assert not text.endswith(".") or text[0].isupper(), text


def test_there_are_enough_wordings_and_they_differ() -> None:
    asks = paraphrases("mass")
    assert len(asks) >= 5
    assert [ask.id for ask in asks] == list(TEMPLATES)
    sentences = [text for ask in asks for text in (*ask.positives, *ask.negatives)]
    assert len(set(sentences)) == len(sentences)
    by_name = {ask.id: ask for ask in asks}
    assert by_name["there is"].positives == (sentence_text("mass", Certainty.PRESENT),), "training's own is among them"
    assert by_name["name"].positives == ("mass",)


def test_no_finding_is_turned_round() -> None:
    by_name = {ask.id: ask for ask in paraphrases("no finding")}
    assert by_name["there is"].positives == ("There is no acute cardiopulmonary abnormality.",)
    assert by_name["there is"].negatives == ("There is an acute cardiopulmonary abnormality.",)


def test_a_finding_of_ones_own_stands_as_it_is() -> None:
    by_name = {ask.id: ask for ask in paraphrases("tortuous blob")}
    assert by_name["seen"].positives == ("Tortuous blob is seen.",)


def test_an_ensemble_is_one_question_in_several_words() -> None:
    asks = {ask.id: ask for ask in paraphrases("edema")}
    for name, members in ENSEMBLES.items():
        one = ensemble("edema", name=name)
        assert one.positives == tuple(asks[member].positives[0] for member in members)
        assert one.negatives == tuple(asks[member].negatives[0] for member in members)
    assert len(ensemble("edema").positives) == len(TEMPLATES)
    with pytest.raises(ConfigError, match="there are all"):
        ensemble("edema", name="best")
