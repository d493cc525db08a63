import socket

import pytest

from vlp.errors import BackendError
from vlp.ingest.privacy import presidio
from vlp.ingest.privacy.presidio import PresidioScanner


def test_without_the_library_the_extra_is_named(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(presidio, "import_module", absent)
    with pytest.raises(BackendError, match=r"vlp\[privacy\]"):
        PresidioScanner()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks the network fails the test."""
    pytest.importorskip("presidio_analyzer", reason="needs presidio-analyzer: install vlp[privacy]")

    def refuse(*arguments, **named):
        raise AssertionError("a scan must not use the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("offline")
def test_patterns_without_a_model():
    text = "Call (312) 555-0187; host 10.0.0.5; card 4111 1111 1111 1111; SSN 078-05-1123; mail a@b.example.org."
    found = {text[hit.start : hit.end]: hit.kind for hit in PresidioScanner().scan(text)}
    assert found["(312) 555-0187"] == "phone"
    assert found["10.0.0.5"] == "web"
    assert found["4111 1111 1111 1111"] == "number"


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "text",
    [
        "T8 and 5 mm, 2/6",
        "Lungs are clear bilaterally.There is no effusion",
        "Kerley B lines",
        "[**Name 12**] ___ XXXX",
    ],
)
def test_radiology_is_left_alone(text):
    assert PresidioScanner().scan(text) == ()


@pytest.mark.usefixtures("offline")
def test_a_model_that_is_not_there_is_not_downloaded():
    with pytest.raises(BackendError, match="no_such_model is not installed"):
        PresidioScanner(model="no_such_model")


@pytest.mark.usefixtures("offline")
def test_names_that_a_spacy_model_sees(tmp_path):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Adler"}, {"label": "PERSON", "pattern": "Right Lung"}])
    nlp.to_disk(tmp_path / "model")
    scanner = PresidioScanner(model=str(tmp_path / "model"))
    text = "Adler saw the Right Lung"
    assert [(hit.kind, text[hit.start : hit.end]) for hit in scanner.scan(text)] == [("name", "Adler")]
    assert scanner.fingerprint() != PresidioScanner().fingerprint()
