import sys
from types import ModuleType
from typing import ClassVar

import pytest

from vlp.errors import BackendError
from vlp.reports.readers.radgraph import RadgraphReaderConfig


def entity(tokens, label, start, relations=()):
    label = {"p": "Observation::definitely present", "a": "Observation::definitely absent",
             "u": "Observation::uncertain", "anatomy": "Anatomy::definitely present"}[label]  # fmt: skip
    end = start + len(tokens.split()) - 1
    return {
        "tokens": tokens,
        "label": label,
        "start_ix": start,
        "end_ix": end,
        "relations": [list(r) for r in relations],
    }


GRAPHS = {
    "Small left pleural effusion.": {
        "1": entity("Small", "p", 0, [("modify", "4")]),
        "2": entity("left", "anatomy", 1, [("modify", "3")]),
        "3": entity("pleural", "anatomy", 2),
        "4": entity("effusion", "p", 3, [("located_at", "3")]),
    },
    "No pneumothorax.": {"1": entity("pneumothorax", "a", 1)},
    "The right lung is clear.": {
        "1": entity("right", "anatomy", 1, [("modify", "2")]),
        "2": entity("lung", "anatomy", 2),
        "3": entity("clear", "p", 4, [("located_at", "2")]),
    },
    "Possible edema and gout.": {"1": entity("edema", "u", 1), "2": entity("gout", "p", 3)},
}


class Fake:
    """What the package's model does, for a few sentences; texts come back with blanks between their tokens."""

    made: ClassVar[list[dict]] = []

    def __init__(self, **settings):
        Fake.made.append(settings)

    def __call__(self, sentences):
        return {
            str(number): {"text": sentence.replace(".", " ."), "entities": GRAPHS[sentence]}
            for number, sentence in enumerate(sentences)
            if sentence in GRAPHS
        }


@pytest.fixture
def package(monkeypatch):
    module = ModuleType("radgraph")
    module.RadGraph = Fake
    monkeypatch.setitem(sys.modules, "radgraph", module)
    Fake.made = []
    return module


def test_graphs_become_statements_of_the_vocabulary(package, tmp_path):
    reader = RadgraphReaderConfig(device="cuda", weights=tmp_path).build()
    reading = reader.read(" ".join(GRAPHS))
    assert [(one.finding, one.certainty.value, one.location, one.severity) for one in reading.sentences] == [
        ("pleural effusion", "present", "left", "small"),
        ("pneumothorax", "absent", None, None),
        ("consolidation", "absent", "right", None),
        ("lung opacity", "absent", "right", None),
        ("edema", "uncertain", None, None),
    ]
    assert reading.left_out == {"model: no finding of the vocabulary": 1}
    assert Fake.made == [{"model_type": "radgraph-xl", "cuda": 0, "model_cache_dir": str(tmp_path)}]
    reader.read("No pneumothorax.")
    assert len(Fake.made) == 1


def test_a_sentence_that_is_not_answered_keeps_its_words_and_is_counted(package):
    reading = RadgraphReaderConfig().build().read("Lungs are expanded. No pneumothorax.")
    assert [one.finding for one in reading.sentences] == [None, "pneumothorax"]
    assert reading.left_out == {"model: no answer to a sentence": 1}


def test_weights_that_cannot_be_loaded_are_a_fault_in_plain_words(package):
    def fail(**settings):
        raise RuntimeError("some hub is not there")

    package.RadGraph = fail
    with pytest.raises(BackendError, match="weights of radgraph-xl cannot be loaded"):
        RadgraphReaderConfig().build().read("No pneumothorax.")


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "radgraph", None)
    with pytest.raises(BackendError, match="pip install radgraph"):
        RadgraphReaderConfig().build()
