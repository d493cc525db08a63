from collections import Counter

import pytest
from pydantic import TypeAdapter, ValidationError

from vlp.errors import BackendError
from vlp.records import Certainty
from vlp.reports import read, read_report
from vlp.reports.reader import Statement
from vlp.reports.readers import ReaderConfig, make_reader
from vlp.reports.readers.reader import load_package, read_by_sentence
from vlp.reports.readers.rules import RulesReaderConfig

TEXT = "FINDINGS: Small left effusion. The bones are intact. Dictated by X.\nIMPRESSION: No change. Edema."


def by_rules(written):
    from vlp.reports.reader import find_statements

    return [find_statements(one)[0] for one in written], Counter()


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "Blunted left costophrenic angle. No effusion.",
        "WET READ: Edema.\nFINDINGS: No edema.",
        "No new opacity. Left opacity.",
        "",
        "Kein Pneumothorax. Das Herz ist normal.",
    ],
)
def test_a_back_end_that_says_what_the_rules_say_reads_what_the_rules_read(text):
    assert read_by_sentence(text, by_rules) == read_report(text)


def test_a_back_end_that_says_nothing_leaves_the_sentences_their_own_words():
    reading = read_by_sentence(TEXT, lambda written: ([() for _ in written], Counter({"model: x": 2})))
    assert [one.text for one in reading.sentences] == ["Small left effusion.", "The bones are intact.", "Edema."]
    assert reading.left_out == {"about the work": 1, "only compares": 1, "model: x": 2}


def test_what_a_back_end_says_has_the_sentences_span_and_the_template():
    said = Statement(finding="mass", certainty=Certainty.UNCERTAIN, location="left upper", severity="small")
    (sentence,) = read_by_sentence("IMPRESSION: 1. Something.", lambda written: ([[said]], Counter())).sentences
    assert (sentence.section, sentence.start, sentence.end) == ("impression", 15, 25)
    assert sentence.text == "There may be a mass of the left upper lung."


def test_another_language_is_not_shown_to_a_back_end():
    def fail(written):
        raise AssertionError(written)

    assert read_by_sentence("Kein Pneumothorax. Das Herz ist normal.", fail).language == "de"


def test_the_union_knows_every_kind_and_builds_each_once():
    adapter = TypeAdapter(ReaderConfig)
    assert adapter.validate_python({"kind": "rules"}) == RulesReaderConfig()
    assert adapter.validate_python({"kind": "openai", "model": "m"}).model == "m"
    assert adapter.validate_python({"kind": "radgraph"}).model == "radgraph-xl"
    assert adapter.validate_python({"kind": "chexbert"}).device == "cpu"
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "oracle"})
    reader = make_reader(RulesReaderConfig())
    assert reader is make_reader(RulesReaderConfig())
    assert reader.name == "rules"
    assert reader.read(TEXT).sentences == read(TEXT)


def test_a_missing_package_is_named_with_the_way_to_get_it():
    with pytest.raises(BackendError, match=r"'x'.*'surely_not_installed'.*pip install surely_not_installed"):
        load_package("surely_not_installed.part", package="surely_not_installed", reader="x")
