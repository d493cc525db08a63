import pytest
import torch

from vlp.errors import DataError
from vlp.inference import remembered_texts
from vlp.inference.remembered_texts import RememberedTexts

SENTENCES = ["There is a nodule.", "There is no nodule.", "There is a  nodule.", "The heart is large."]


@pytest.fixture
def counted(engine, monkeypatch):
    """(the memory, how many texts went through the text tower so far)"""
    seen: list[int] = []
    encode = engine.model.encode_texts
    monkeypatch.setattr(engine.model, "encode_texts", lambda tokens: seen.append(len(tokens.ids)) or encode(tokens))
    return RememberedTexts(engine.model), seen


def test_equals_encoding_each_text_by_itself(engine, counted):
    memory, _ = counted
    alone = [
        engine.model.encode_texts(engine.model.tokenizer([" ".join(text.split())])).pooled[0] for text in SENTENCES
    ]
    torch.testing.assert_close(memory.features(SENTENCES).pooled, torch.stack(alone), rtol=1e-5, atol=1e-6)


def test_a_distinct_text_is_encoded_once_and_a_set_is_stacked_once(counted):
    memory, seen = counted
    first = memory.features(SENTENCES)
    assert sum(seen) == 3  # two of the four differ in spaces alone
    assert memory.features(tuple(SENTENCES)) is first
    memory.features(SENTENCES[::-1])
    assert sum(seen) == 3


def test_a_full_memory_forgets_and_still_answers(counted, monkeypatch):
    memory, seen = counted
    monkeypatch.setattr(remembered_texts, "_MOST_TEXTS", 3)
    monkeypatch.setattr(remembered_texts, "_MOST_SETS", 1)
    first = memory.features(SENTENCES).pooled
    memory.features(["There is a mass."])
    torch.testing.assert_close(memory.features(SENTENCES).pooled, first)
    assert sum(seen) == 3 + 1 + 3


@pytest.mark.parametrize("texts", [[], "There is a nodule.", [" \u200b\n"], ["..."]])
def test_nothing_to_encode_is_refused(counted, texts):
    memory, _ = counted
    with pytest.raises(DataError):
        memory.features(texts)


def test_a_text_longer_than_the_tower_reads_is_refused_with_both_numbers(engine, counted):
    memory, _ = counted
    limit = engine.model.tokenizer.max_tokens
    with pytest.raises(DataError, match=rf"at most {limit}"):
        memory.features(["nodule " * (limit + 5)])
