import json
import multiprocessing
import pickle
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from vlp.data.statements import Fact, code, identity
from vlp.data.texts import (
    Packing,
    TemplateMemory,
    agreed,
    known_texts,
    report_text,
    sampled_texts,
    sentence_texts,
    templates,
    told,
)
from vlp.data.tokens import Tokenizer
from vlp.errors import DataError
from vlp.records import Certainty, Person, Report, Study
from vlp.reports import read, sentence_from_label
from vlp.tensors import ABSENT, PRESENT

REPORT = "FINDINGS: No pneumothorax or effusion. Small left\n pneumothorax.  Degenerative spine."
NONE = Fact(finding="pneumothorax", certainty=Certainty.ABSENT)
NO_FLUID = Fact(finding="pleural effusion", certainty=Certainty.ABSENT)
LEFT = Fact(finding="pneumothorax", certainty=Certainty.PRESENT, location="left")
TEMPLATES = {
    "There is no pneumothorax.": NONE,
    "There is no pleural effusion.": NO_FLUID,
    "There is pneumothorax of the left pleural space.": LEFT,
}
SENTENCE = {"start": 0, "end": 4, "section": "findings", "finding": "edema", "certainty": "present", "text": "Edema."}
BOTH_DENIED, SMALL = "No pneumothorax or effusion.", "Small left pneumothorax."


def study_of(text=REPORT, **changes) -> Study:
    person, report = Person(id="p"), Report(text=text)
    return replace(
        Study(id="s", person=person, images=(), report=report, sentences=read(text), source="made here"), **changes
    )


def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return Tokenizer(backend, pad_token="[PAD]", max_tokens=20)


def test_written_words_templates_or_both():
    study = study_of()
    said = study.sentences[2]
    template = "There is pneumothorax of the left pleural space."
    assert sentence_texts(study, said, "template") == (template,)
    assert sentence_texts(study, said, "written") == (SMALL,)
    assert sentence_texts(study, said, "both") == (template, SMALL)
    made = sentence_from_label("edema", Certainty.PRESENT)
    for texts in ("template", "written", "both"):
        assert sentence_texts(replace(study, report=None), made, texts) == ("There is edema.",)


def test_a_whole_report_is_findings_and_impression_as_written():
    text = (
        "INDICATION: Cough. No fever.\nCOMPARISON: None.\nFINDINGS: No pneumothorax or\n  pleural effusion.  The heart "
        "is normal in size.\nIMPRESSION: No pneumothorax or pleural effusion. Degenerative spine."
    )
    study = study_of(text)
    assert report_text(study) == (
        "No pneumothorax or pleural effusion. The heart is normal in size. "
        "No pneumothorax or pleural effusion. Degenerative spine."
    )
    labels = tuple(sentence_from_label(name, Certainty.PRESENT) for name in ("edema", "mass"))
    assert report_text(replace(study, report=None, sentences=labels)) == "There is edema. There is a mass."
    assert report_text(replace(study, report=None, sentences=())) == ""


def test_each_text_comes_once_with_what_it_states():
    study = study_of()
    assert sampled_texts(study, study.sentences, "template") == TEMPLATES | {"Degenerative spine.": None}
    assert list(sampled_texts(study, study.sentences[1:], "template")) == [*list(TEMPLATES)[1:], "Degenerative spine."]
    assert sampled_texts(study, study.sentences, "report") == {f"{BOTH_DENIED} {SMALL} Degenerative spine.": None}
    assert sampled_texts(study_of(""), (), "report") == {}


def test_written_words_for_several_facts_state_none():
    study = study_of()
    written = sampled_texts(study, study.sentences, "written")
    assert written == {BOTH_DENIED: None, SMALL: LEFT, "Degenerative spine.": None}
    assert sampled_texts(study, study.sentences[1:2], "written") == {BOTH_DENIED: NO_FLUID}
    again = replace(study.sentences[2], section="impression")
    assert sampled_texts(study, (*study.sentences, again), "written")[SMALL] == LEFT


def test_everything_said_is_known_in_every_form():
    study = study_of()
    templates, spine = set(TEMPLATES.items()), ("Degenerative spine.", None)
    assert set(known_texts(study, "template")) == templates | {spine}
    written = {(BOTH_DENIED, NONE), (BOTH_DENIED, NO_FLUID), (SMALL, LEFT)}
    assert set(known_texts(study, "written")) == set(known_texts(study, "both")) == templates | {spine} | written
    assert len(known_texts(study, "both")) == len(templates | {spine} | written)
    assert set(known_texts(study, "report")) == templates | {spine, (report_text(study), None)}


def test_a_report_of_one_sentence_keeps_its_fact_known():
    labels = (sentence_from_label("edema", Certainty.PRESENT),)
    study = study_of("", report=None, sentences=labels)
    edema = Fact(finding="edema", certainty=Certainty.PRESENT)
    assert sampled_texts(study, labels, "report") == {"There is edema.": None}
    assert ("There is edema.", edema) in known_texts(study, "report")


def test_a_batch_holds_each_text_once():
    packing = Packing()
    packing.add(0, {"a": NONE, "b": None}, flips={"c": LEFT}, known=(("a", NONE), ("z", None)))
    packing.add(1, {}, flips={}, known=())
    packing.add(2, {"c": LEFT, "a": NONE}, flips={"d": NO_FLUID}, known=(("c", LEFT),))
    made = packing.tensors(tokenizer())
    assert made["tokens"].ids.shape[0] == 4
    assert made["sentence"].tolist() == [0, 1, 2, 2, 0, 3]
    assert made["owner"].tolist() == [0, 0, 0, 2, 2, 2]
    assert made["flipped"].tolist() == [False, False, True, False, False, True]
    assert made["said"].identity.tolist() == [identity(text) for text in "abcd"]
    assert made["said"].finding.tolist() == [code(name) for name in
                                             ("pneumothorax", None, "pneumothorax", "pleural effusion")]  # fmt: skip
    assert made["said"].location.tolist() == [0, 0, code("left"), 0]
    assert made["said"].certainty.tolist() == [ABSENT, 0, PRESENT, ABSENT]
    assert made["known"].identity.tolist() == [identity("a"), identity("z"), identity("c")]
    assert made["known"].certainty.tolist() == [ABSENT, 0, PRESENT]
    assert made["known_study"].tolist() == [0, 0, 2]


def test_words_that_studies_mean_differently_state_nothing():
    for facts in ((NONE, LEFT), (NONE, None), (None, NONE), (NONE, LEFT, NONE)):
        packing = Packing()
        for number, fact in enumerate(facts):
            packing.add(number, {"a": fact}, flips={}, known=())
        assert packing.tensors(tokenizer())["said"].finding.tolist() == [0]


def test_an_empty_batch_has_empty_tensors():
    made = Packing().tensors(tokenizer())
    for name in ("sentence", "owner", "known_study"):
        assert made[name].shape == (0,)
        assert made[name].dtype == torch.int64
    assert made["flipped"].dtype == torch.bool
    assert made["known"].finding.shape == made["said"].finding.shape == (0,)


def test_what_is_told_of_a_study_in_a_shard_is_what_it_says(reader):
    for key in reader.keys("train"):
        study, said = reader.study(key), told(reader, key)
        assert (said.report, said.labels) == (study.report, study.labels)
        for texts in ("template", "written", "both", "report"):
            assert sampled_texts(said, said.sentences, texts) == sampled_texts(study, study.sentences, texts)
            assert known_texts(said, texts) == known_texts(study, texts)


def test_templates_are_read_in_short(reader):
    for key in reader.keys("train"):
        study, sayings = reader.study(key), templates(reader, key)
        assert agreed(sayings) == sampled_texts(study, study.sentences, "template")
        assert tuple(dict.fromkeys(sayings)) == known_texts(study, "template")
        assert templates(reader, key)[:1] == sayings[:1]  # remembered by now


def test_a_study_is_read_once_by_all_forked_processes(reader, monkeypatch):
    keys = reader.keys("train")
    memory = TemplateMemory([reader.sample(key).sentences for key in keys])
    expected = [templates(reader, key) for key in keys]
    for number in (1, 0, 4):
        assert memory.get(reader, keys[number], number) == expected[number]
    read = []
    real = type(reader).member
    monkeypatch.setattr(type(reader), "member", lambda self, key, suffix: read.append(key) or real(self, key, suffix))
    pipe, theirs = multiprocessing.Pipe(duplex=False)

    def elsewhere():
        theirs.send([memory.get(reader, key, number) == expected[number] for number, key in enumerate(keys)])
        theirs.send(read)

    process = multiprocessing.get_context("fork").Process(target=elsewhere)
    process.start()
    assert pipe.recv() == [True] * len(keys)
    assert pipe.recv() == [key for number, key in enumerate(keys) if number not in (0, 1, 4)]
    process.join()
    assert read == []
    assert [memory.get(reader, key, number) for number, key in enumerate(keys)] == expected
    mute = [key for key in keys if not reader.sample(key).sentences]
    assert set(read) == set(mute)  # what the others say was read there, and its words are known here


def test_numbers_that_another_process_wrote_are_learned(reader):
    keys = reader.keys("train")
    memory = TemplateMemory([reader.sample(key).sentences for key in keys])
    said = memory.get(reader, keys[0], 0)
    memory._said.clear()  # as in a process that was forked before
    assert memory.get(reader, keys[0], 0) == said


def test_a_file_that_says_more_than_was_counted_and_a_memory_that_is_sent_are_read_as_ever(reader, monkeypatch):
    key = reader.keys("train")[0]
    for memory in (TemplateMemory([1]), TemplateMemory([5]), pickle.loads(pickle.dumps(TemplateMemory([2])))):
        for _ in range(2):
            assert memory.get(reader, key, 0) == templates(reader, key)
    monkeypatch.setattr("vlp.data.texts._MEMORY_BYTES", 8)
    assert TemplateMemory([2, 2]).get(reader, key, 1) == templates(reader, key)


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"sentences": None},
        {"sentences": [{"text": "no more"}]},
        {"sentences": ["There is edema."]},
        {"sentences": [{**SENTENCE, "certainty": "maybe"}]},
        {"sentences": [{**SENTENCE, "finding": ["edema"]}]},
        {"sentences": [{**SENTENCE, "text": 7}]},
        {"sentences": [{**SENTENCE, "start": -1, "text": "Never seen before."}]},
    ],
)
@pytest.mark.parametrize("read", [told, templates])
def test_files_that_are_no_samples_are_refused_however_they_are_read(reader, monkeypatch, change, read):
    key = reader.keys()[0]
    content = {**json.loads(reader.member(key, "json")), **change}
    monkeypatch.setattr(type(reader), "member", lambda *_: json.dumps(content).encode())
    with pytest.raises(DataError, match="not a sample of schema version 1"):
        read(reader, key)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff"])
@pytest.mark.parametrize("read", [told, templates])
def test_files_that_are_no_json_are_refused(reader, monkeypatch, content, read):
    monkeypatch.setattr(type(reader), "member", lambda *_: content)
    with pytest.raises(DataError, match="not a sample of schema version 1"):
        read(reader, reader.keys()[0])
