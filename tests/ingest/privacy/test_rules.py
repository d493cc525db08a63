import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.privacy import HALVES, load_reports, load_sentences, measure_sentences
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.privacy.phi import KINDS, mask
from vlp.ingest.privacy.rules import RuleScanner

SENTENCES = load_sentences()


def test_the_sentences_are_many_and_of_every_kind():
    assert len(SENTENCES) > 300
    assert sum(not item.spans for item in SENTENCES) >= 60
    for half in HALVES:
        kinds = Counter(span.kind for item in SENTENCES if item.half == half for span in item.spans)
        assert sum(kinds.values()) >= 150
        assert min(kinds[kind] for kind in KINDS) >= 5


@pytest.mark.parametrize("half", HALVES)
def test_recall_overall_and_by_kind(half):
    result = measure_sentences(RuleScanner(), [item for item in SENTENCES if item.half == half])
    spans, found = result["spans"], result["found"]
    assert found.total() / spans.total() >= 0.97
    for kind in KINDS:
        assert found[kind] / spans[kind] >= 0.9, kind
    assert result["alarms"] <= 2


@pytest.mark.parametrize("item", SENTENCES[::3], ids=lambda item: item.text[:20])
def test_what_is_masked_holds_nothing_more_to_find(item):
    scanner = RuleScanner()
    masked = mask(item.text, scanner.scan(item.text))
    assert len(masked) == len(item.text)
    assert scanner.scan(masked) == ()


def test_names_go_on_in_the_next_line_where_text_is_wrapped():
    long = "These findings were discussed over the telephone with"
    for name in ("Dr. Anna\nAchterberg", "Dr.\nAchterberg", "Mercy General\nHospital"):
        text = f"{long} {name}."
        assert [text[hit.start : hit.end] for hit in RuleScanner().scan(text)] == [name]
    text = "Dr. Anna\nAchterloo is a word."
    assert [text[hit.start : hit.end] for hit in RuleScanner().scan(text)] == ["Dr. Anna"]


@given(st.text(max_size=200))
def test_any_text_can_be_scanned(text):
    hits = RuleScanner().scan(text)
    assert all(0 <= hit.start < hit.end <= len(text) for hit in hits)
    assert all(one.end <= other.start for one, other in itertools.pairwise(hits))


def test_reports_that_a_program_wrote_hold_no_person():
    source = PhantomSource(patients=6, size_px=64)
    texts = [item.study.report.text for unit in source.units() for item in source.load(unit) if item.study.report]
    assert len(texts) > 5
    assert [RuleScanner().scan(text) for text in texts] == [()] * len(texts)


def test_the_order_of_day_and_month_is_passed_on():
    text = "1/13/2020"
    assert [hit.kind for hit in RuleScanner(order="day_first").scan(text)] == ["date"]
    assert RuleScanner().fingerprint() == RuleScanner(order="day_first").fingerprint()
    assert len(RuleScanner().fingerprint()) == 16


@pytest.mark.real_data
@pytest.mark.parametrize("half", HALVES)
def test_false_alarms_on_reports_that_are_deidentified(half):
    data = Path(os.environ.get("VLP_SHARED_DATA", "../shared/data"))
    if not (data / "text" / "iu_xray_reports.jsonl.gz").is_file():
        pytest.skip(f"no Open-I reports under {data}: set VLP_SHARED_DATA to the folder of real data")
    texts = load_reports(data, half)
    hits = [(hit.kind, text[hit.start : hit.end]) for text in texts for hit in RuleScanner().scan(text)]
    # A few days were left in these reports by those who made them ("Sept 21"): they are right to be found.
    false = [words for kind, words in hits if not (kind == "date" and words.startswith("Sept "))]
    assert len(texts) > 1500
    assert 1000 * len(false) / len(texts) < 1
    assert 1000 * len(hits) / len(texts) < 6
