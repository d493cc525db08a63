import hashlib
import multiprocessing
import unicodedata
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vlp.data.statements import CERTAINTY_CODES, Fact, code, identity, normalised, statements
from vlp.records import Certainty, Sentence
from vlp.reports.findings import VOCABULARY
from vlp.reports.locations import SIDES, ZONES, compose


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("There is no  Pneumothorax.", "there is no pneumothorax"),
        ("There is no\n\tpneumothorax . ", "there is no pneumothorax"),
        ("ＮＯ pneumothorax！", "no pneumothorax"),
        ("in\ufb01ltrate", "infiltrate"),
        ("No e\u0301dema", "no \u00e9dema"),
        ("Stra\u00dfe", "STRASSE"),
        ("3.5 cm nodule", "3.5 CM nodule."),
    ],
)
def test_what_does_not_change_the_words_does_not_count(text, same):
    assert normalised(text) == normalised(same)
    assert identity(text) == identity(same)


@pytest.mark.parametrize(
    ("text", "other"),
    [("no effusion", "effusion"), ("a. b", "a b"), ("left", "right"), ("", "."), (".", "?"), ("Small", "Small (left)")],
)
def test_what_changes_the_words_counts(text, other):
    assert identity(text) != identity(other)


@given(st.text())
def test_normal_words_are_normal(text):
    once = normalised(text)
    assert normalised(once) == once
    assert normalised(f" {text} ") == once
    assert unicodedata.is_normalized("NFKC", once)
    assert (normalised(text + ".") == once) or not once.strip(".,;:!?。 ")


@given(st.text())
def test_a_code_is_the_hash_and_fits_a_tensor(text):
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    expected = int.from_bytes(digest, "little")
    assert code(text) % 2**64 == expected != 0
    assert int(torch.tensor(code(text))) == code(text)


def test_no_text_is_code_nought_and_the_empty_one_is_not():
    assert code(None) == 0
    assert code("") != 0


def test_codes_of_the_vocabulary_are_distinct():
    places = {compose(side, zone) for side in (None, *SIDES) for zone in (None, *ZONES)} - {None}
    names = [*VOCABULARY, *places]
    assert len({code(name) for name in names} | {0}) == len(names) + 1


def test_another_process_has_the_same_codes():
    """A worker started anew, with another seed for Python's own hashes."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(identity, "There is no pneumothorax.").result() == identity("There is no pneumothorax.")


def test_statements_are_rows_of_codes():
    fact = Fact(finding="nodule", certainty=Certainty.ABSENT, location="left upper")
    anywhere = Fact(finding="nodule", certainty=Certainty.UNCERTAIN)
    made = statements([("A", fact), ("b.", None), ("a", anywhere)])
    assert made.identity.tolist() == [identity("A"), identity("b"), identity("A")]
    assert made.finding.tolist() == [code("nodule"), 0, code("nodule")]
    assert made.location.tolist() == [code("left upper"), 0, 0]
    assert made.certainty.tolist() == [CERTAINTY_CODES[Certainty.ABSENT], 0, CERTAINTY_CODES[Certainty.UNCERTAIN]]
    assert len({*CERTAINTY_CODES.values(), 0}) == 4
    assert [statements([]).identity.shape, statements([]).identity.dtype] == [(0,), torch.int64]


def test_the_fact_of_a_sentence():
    said = Sentence(
        start=0, end=3, section="findings", finding="mass", certainty=Certainty.PRESENT, text="There is a mass.",
        location="right", severity="large",
    )  # fmt: skip
    assert Fact.of(said) == Fact(finding="mass", certainty=Certainty.PRESENT, location="right")
    unspecific = Sentence(start=0, end=3, section="findings", finding=None, certainty=Certainty.PRESENT, text="Clips.")
    assert Fact.of(unspecific) is None
