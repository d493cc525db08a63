from dataclasses import replace

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from vlp.data.statements import Fact, code, identity
from vlp.data.texts import Packing, known_texts, report_text, sampled_texts, sentence_texts
from vlp.data.tokens import Tokenizer
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
