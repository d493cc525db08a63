import pytest

from vlp.errors import DataError
from vlp.ingest.phantom.truth import FINDINGS
from vlp.records import Certainty
from vlp.reports.findings import LABEL_SETS, VOCABULARY, canonical, sentence_from_label, sentence_text

CHEXPERT = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NIH = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip


def test_the_label_sets_are_the_official_ones_and_lie_in_the_vocabulary():
    assert tuple(LABEL_SETS["nih14"]) == NIH
    assert tuple(LABEL_SETS["chexpert14"]) == CHEXPERT
    for labels in LABEL_SETS.values():
        assert set(labels.values()) <= set(VOCABULARY)
        assert len(set(labels.values())) == 14


def test_every_phantom_finding_is_in_the_vocabulary():
    assert set(FINDINGS) <= set(VOCABULARY)


def test_parents_are_findings_and_never_run_in_a_circle():
    for entry in VOCABULARY.values():
        seen = {entry.name}
        while entry.parent is not None:
            entry = VOCABULARY[entry.parent]
            assert entry.name not in seen
            seen.add(entry.name)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("Pleural_Thickening", "pleural thickening"),
        ("Effusion", "pleural effusion"),
        ("PLEURAL EFFUSION", "pleural effusion"),
        ("Infiltrate", "infiltration"),
        ("No Finding", "no finding"),
        ("Support Devices", "support device"),
        ("ptx", "pneumothorax"),
        ("hydropneumothorax", None),
        ("gout", None),
        ("", None),
    ],
)
def test_canonical_knows_every_spelling_and_nothing_else(spelling, name):
    assert canonical(spelling) == name


def test_no_two_findings_share_a_name():
    names = [name.casefold() for entry in VOCABULARY.values() for name in {entry.name, *entry.names}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("finding", "certainty", "location", "text"),
    [
        ("pleural effusion", Certainty.PRESENT, None, "There is pleural effusion."),
        ("pleural effusion", Certainty.PRESENT, "left", "There is pleural effusion of the left pleural space."),
        ("nodule", Certainty.UNCERTAIN, "right upper", "There may be a nodule of the right upper lung."),
        ("nodule", Certainty.ABSENT, None, "There is no nodule."),
        ("atelectasis", Certainty.PRESENT, "bilateral base", "There is atelectasis of both bases."),
        ("pneumothorax", Certainty.PRESENT, "left apex", "There is pneumothorax of the left apex."),
        ("cardiomegaly", Certainty.PRESENT, "left", "There is cardiomegaly."),
        ("no finding", Certainty.PRESENT, None, "There is no acute cardiopulmonary abnormality."),
        ("no finding", Certainty.ABSENT, None, "There is an acute cardiopulmonary abnormality."),
    ],
)
def test_the_template_is_plain_english(finding, certainty, location, text):
    assert sentence_text(finding, certainty, location=location) == text


def test_an_unknown_finding_is_refused():
    with pytest.raises(DataError, match="not in the vocabulary"):
        sentence_text("gout", Certainty.PRESENT)


def test_a_sentence_from_a_label_says_where_it_comes_from():
    sentence = sentence_from_label("mass", Certainty.ABSENT)
    assert (sentence.origin, sentence.section, sentence.start, sentence.end) == ("labels", "labels", 0, 0)
    assert sentence.text == "There is no mass."
