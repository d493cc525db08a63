import itertools
import json
from pathlib import Path

import pytest

from vlp.errors import BackendError, CheckpointError
from vlp.ingest.privacy.phi import Hit
from vlp.ingest.privacy.transformer import TransformerScanner, kind_of

torch = pytest.importorskip("torch", reason="needs vlp[model]")
transformers = pytest.importorskip("transformers", reason="needs vlp[model]")

WORDS = [
    "the",
    "heart",
    "is",
    "normal",
    "seen",
    "by",
    "adler",
    "smith",
    "##son",
    "93",
    "12",
    ".",
    ",",
    "-",
    "jane",
    "at",
    "lung",
]
LABELS = {0: "O", 1: "B-PATIENT", 2: "I-AGE"}


def _save(folder: Path, *, labels=LABELS, max_tokens: int = 32) -> Path:
    """A BERT without layers that answers by the token alone: `adler`, `jane`, `##son` are names, numbers are ages."""
    from transformers import BertConfig, BertForTokenClassification, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=max_tokens).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=0,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=64,
        num_labels=len(labels),
        id2label=labels,
        label2id={name: id_ for id_, name in labels.items()},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        embeddings = model.bert.embeddings
        embeddings.word_embeddings.weight.zero_()
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()
        embeddings.word_embeddings.weight[:, 0] = 1.0
        for word, channel in {"adler": 1, "jane": 1, "##son": 1, "93": 2, "12": 2}.items():
            embeddings.word_embeddings.weight[vocabulary.index(word)] = torch.eye(16)[channel]
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        for label in range(min(3, len(labels))):
            model.classifier.weight[label, label] = 1.0
    model.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> TransformerScanner:
    return TransformerScanner(_save(tmp_path_factory.mktemp("model") / "tagger"))


def _found(scanner: TransformerScanner, text: str) -> list[tuple[str, str]]:
    return [(hit.kind, text[hit.start : hit.end]) for hit in scanner.scan(text)]


def test_tokens_become_words_and_words_in_a_row_one_hit(tagger):
    assert _found(tagger, "Seen by Jane Adler.  The heart is normal") == [("name", "Jane Adler")]
    assert _found(tagger, "smithson at 12, 93") == [("name", "smithson"), ("age", "12, 93")]
    assert _found(tagger, "seen by smith") == []
    assert _found(tagger, "") == _found(tagger, " \n ") == []


def test_ages_up_to_89_and_tokens_are_no_hits(tagger):
    assert _found(tagger, "12 is normal. 93 is.") == [("age", "93")]


def test_texts_longer_than_the_model_are_read_to_their_end(tagger):
    filler = "the heart is normal. " * 30
    text = f"{filler}jane adler {filler}adler"
    first = text.index("jane")
    assert tagger.scan(text) == (Hit(first, first + 10, "name"), Hit(len(text) - 5, len(text), "name"))
    assert _found(tagger, "adler " * 40) == [("name", ("adler " * 40).strip())]


def test_a_randomly_initialised_model_gives_spans_within_the_text(tmp_path):
    from transformers import BertConfig, BertForTokenClassification

    folder = _save(tmp_path / "random")
    torch.manual_seed(3)
    config = BertConfig.from_pretrained(folder, num_hidden_layers=2)
    BertForTokenClassification(config).save_pretrained(folder, safe_serialization=True)
    text = "Seen by Jane Adler, 93, at the lung. " * 20
    hits = TransformerScanner(folder).scan(text)
    assert all(0 <= one.start < one.end <= len(text) for one in hits)
    assert all(one.end <= other.start for one, other in itertools.pairwise(hits))


def test_the_fingerprint_follows_the_weights(tmp_path):
    folder = _save(tmp_path / "model")
    before = TransformerScanner(folder).fingerprint()
    assert TransformerScanner(folder).fingerprint() == before
    model = transformers.BertForTokenClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.bias.add_(1.0)
    model.save_pretrained(folder, safe_serialization=True)
    assert TransformerScanner(folder).fingerprint() != before


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("B-PATIENT", "name"),
        ("I-STAFF", "name"),
        ("HCW", "name"),
        ("U-PER", "name"),
        ("L-HOSP", "institution"),
        ("B-ORG", "institution"),
        ("VENDOR", "institution"),
        ("LOCATION-OTHER", "address"),
        ("B-ID", "number"),
        ("IDNUM", "number"),
        ("MEDICALRECORD", "number"),
        ("B-DATE", "date"),
        ("PHONE", "phone"),
        ("AGE", "age"),
        ("EMAIL", "email"),
        ("URL", "web"),
        ("O", None),
        ("MISC", None),
        ("PROFESSION", None),
    ],
)
def test_labels(label, kind):
    assert kind_of(label) == kind


def test_what_cannot_be_loaded(tmp_path, monkeypatch):
    with pytest.raises(BackendError, match="holds no model"):
        TransformerScanner(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="not a token classifier"):
        TransformerScanner(tmp_path)
    with pytest.raises(CheckpointError, match="names something identifying"):
        TransformerScanner(_save(tmp_path / "other", labels={0: "O", 1: "B-VERB"}))
    damaged = _save(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="not a token classifier"):
        TransformerScanner(damaged)


def test_pickled_weights_are_not_read(tmp_path):
    folder = _save(tmp_path / "pickled")
    weights = folder / "model.safetensors"
    torch.save({}, folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(CheckpointError):
        TransformerScanner(folder)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def absent(name, *rest, **named):
        if name == "transformers":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(BackendError, match=r"vlp\[model\]"):
        TransformerScanner(tmp_path)
