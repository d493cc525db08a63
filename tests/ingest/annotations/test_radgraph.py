import json

import pytest

from tests.ingest.annotations.replicas import radgraph as replica
from tests.ingest.annotations.replicas.ms_cxr import image, study
from tests.ingest.annotations.replicas.radgraph import ENTITIES, REPORT, TEXT, entity, graph
from vlp.errors import DataError
from vlp.ingest.annotations.radgraph import Entity, RadGraphAnnotation, facts_of
from vlp.records import Certainty
from vlp.reports import read


@pytest.fixture
def folder(tmp_path):
    replica.build(tmp_path)
    return tmp_path


def _study(id_="50414267", text=REPORT):
    return study(id_, "10000032", image("a"), text=text)


def _write(folder, entities, *, text=TEXT, name="p10/p10000032/s50414267.txt"):
    path = folder / "graphs.json"
    path.write_text(json.dumps({name: graph(entities) | {"text": text}}))
    return RadGraphAnnotation(path=path, sentences="replace", facts="all")


def test_an_observation_with_its_modifiers_and_place_is_one_sentence(folder):
    sentences = RadGraphAnnotation(path=folder, sentences="replace").apply(_study()).sentences
    said = [(each.finding, each.certainty, each.location, each.severity, each.text) for each in sentences]
    assert said[:3] == [
        (
            "pleural effusion",
            Certainty.PRESENT,
            "left",
            "small",
            "There is pleural effusion of the left pleural space.",
        ),
        ("pneumothorax", Certainty.ABSENT, None, None, "There is no pneumothorax."),
        (
            "lung opacity",
            Certainty.UNCERTAIN,
            "right lower",
            None,
            "There may be a lung opacity of the right lower lung.",
        ),
    ]
    # "Lungs clear" is there, and what it says is that something is not.
    assert {each.certainty for each in sentences[3:]} == {Certainty.ABSENT}


def test_spans_are_the_words_in_the_report_as_written(folder):
    sentences = RadGraphAnnotation(path=folder, sentences="replace").apply(_study()).sentences
    assert [REPORT[each.start : each.end] for each in sentences[:3]] == [
        "small left pleural\n effusion",
        "pneumothorax",
        "zebrawood opacity\n in the right lower lobe",
    ]
    assert {each.section for each in sentences} == {"findings"}
    assert {each.origin for each in sentences} == {"report"}


def test_words_that_are_not_in_the_report_give_no_span(folder):
    sentences = RadGraphAnnotation(path=folder, sentences="replace").apply(_study(text="Nothing of it.")).sentences
    assert {(each.start, each.end, each.origin) for each in sentences} == {(0, 0, "labels")}


def test_the_same_words_twice_have_their_own_spans(tmp_path):
    text = "No effusion . Small effusion ."
    entities = {"1": entity("OBS-DA", 1, text=text), "2": entity("OBS-DP", 4, text=text)}
    report = "No effusion. Small effusion."
    sentences = _write(tmp_path, entities, text=text).apply(_study(text=report)).sentences
    assert [(each.certainty, each.start) for each in sentences] == [
        (Certainty.ABSENT, report.index("effusion")),
        (Certainty.PRESENT, report.rindex("effusion")),
    ]


def test_sentences_are_added_to_those_of_the_rules_once(folder):
    annotation = RadGraphAnnotation(path=folder)
    text = "There is a small left pleural effusion."
    after = annotation.apply(_study(text=text))
    assert after.sentences[0] == read(text)[0]
    assert [each.finding for each in after.sentences] == [
        "pleural effusion",
        "pneumothorax",
        "lung opacity",
        "consolidation",
        "lung opacity",
    ]
    assert annotation.apply(after) == after


def test_facts_about_no_finding_come_in_their_own_words_when_asked_for(tmp_path):
    text = "Mild engorgement of the hila ."
    entities = {
        "1": entity("OBS-DP", 0, ("modify", "2"), text=text),
        "2": entity("OBS-DA", 1, ("located_at", "3"), text=text),
        "3": entity("ANAT-DP", 4, text=text),
    }
    annotation = _write(tmp_path, entities, text=text)
    (sentence,) = annotation.apply(_study(text=text)).sentences
    assert (sentence.finding, sentence.text) == (None, "There is no mild engorgement in the hila.")
    assert not RadGraphAnnotation(path=annotation.path, sentences="replace").apply(_study(text="?")).sentences


@pytest.mark.parametrize("label", ["OBS-DA", "OBS-U"])
def test_a_denial_that_is_itself_denied_or_doubted_says_nothing(label, tmp_path):
    text = "Lungs clear ."
    entities = {"1": entity("ANAT-DP", 0, text=text), "2": entity(label, 1, ("located_at", "1"), text=text)}
    annotation = _write(tmp_path, entities, text=text)
    before = _study(text="Otherwise.")
    assert annotation.apply(before).sentences == read("Otherwise.")
    assert _write(tmp_path, entities | {"2": entities["2"] | {"label": "OBS-DP"}}, text=text).apply(before).sentences


def test_labels_are_kept_unless_they_are_to_be_completed(folder):
    before = _study()
    object.__setattr__(before, "labels", {"pneumothorax": Certainty.PRESENT})
    assert RadGraphAnnotation(path=folder).apply(before).labels == before.labels
    labels = RadGraphAnnotation(path=folder, labels="complete").apply(before).labels
    assert labels["pneumothorax"] is Certainty.PRESENT
    assert labels["lung opacity"] is Certainty.UNCERTAIN


def test_modifiers_of_modifiers_belong_to_the_fact_and_circles_to_none():
    def made(label, first, *relations):
        return Entity(label=label, first=first, last=first, relations=relations)

    chain = {
        "a": made("OBS-DP", 0, ("modify", "b")),
        "b": made("OBS-DP", 1, ("modify", "c")),
        "c": made("OBS-DP", 2, ("located_at", "d")),
        "d": made("ANAT-DP", 5),
        "e": made("ANAT-DP", 4, ("modify", "d")),
    }
    (fact,) = facts_of(chain)
    assert (fact.observed, fact.place) == ((0, 1, 2), (4, 5))
    circle = {"a": made("OBS-DP", 0, ("modify", "b")), "b": made("OBS-DP", 1, ("modify", "a"))}
    assert not list(facts_of(circle))


@pytest.mark.parametrize(
    "entities",
    [
        {"1": ENTITIES["5"] | {"start_ix": 99, "end_ix": 99}},
        {"1": ENTITIES["5"] | {"start_ix": "secretword"}},
        {"1": ENTITIES["5"] | {"relations": ["modify"]}},
        {"1": {"tokens": "secretword"}},
        [],
    ],
)
def test_graphs_that_do_not_fit_together_are_refused(entities, tmp_path):
    with pytest.raises(DataError, match="damaged or has not RadGraph's form") as caught:
        _write(tmp_path, entities).apply(_study())
    assert "secretword" not in str(caught.value)


def test_only_the_study_of_a_damaged_graph_is_refused(tmp_path):
    path = tmp_path / "graphs.json"
    whole = json.dumps({"p10/p1/s1.txt": graph(ENTITIES), "p10/p1/s2.txt": graph(ENTITIES)}, indent=1)
    path.write_text(whole.replace('"entities": {', '"entities": {,', 1))
    annotation = RadGraphAnnotation(path=path, sentences="replace")
    with pytest.raises(DataError, match="damaged"):
        annotation.apply(_study("1"))
    assert len(annotation.apply(_study("2")).sentences) == 5


def test_missing_cut_and_other_files_are_named(tmp_path):
    for content, message in ((b"", "is empty"), (b'{"a": {"text"', "cut off"), (b"{}", "holds no graph")):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DataError, match=message):
            RadGraphAnnotation(path=tmp_path / "x.json").apply(_study())
    with pytest.raises(DataError, match="is this the folder of RadGraph"):
        RadGraphAnnotation(path=tmp_path).apply(_study())
    with pytest.raises(DataError, match="No such file"):
        RadGraphAnnotation(path=tmp_path / "y.json").apply(_study())
