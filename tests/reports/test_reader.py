import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.records import Certainty
from vlp.reports import read
from vlp.reports.findings import VOCABULARY, sentence_text
from vlp.reports.locations import SIDES, ZONES, compose

LOCATIONS = [compose(side, zone) for side in (None, *SIDES) for zone in (None, *ZONES)]
REPORT = """FINAL REPORT
INDICATION: Pneumonia, rule out pneumothorax.

COMPARISON: None.

FINDINGS: The ETT is 4.5 cm above the carina. There is a
small left pleural effusion. The lungs are otherwise clear. The XXXX are
intact.

IMPRESSION:
1. Small left effusion.
2. No acute fracture.

Findings were discussed with Dr. ___ by telephone. Dictated by XXXX.
"""


def of(text, finding):
    return [sentence for sentence in read(text) if sentence.finding == finding]


@pytest.mark.parametrize("finding", VOCABULARY)
@pytest.mark.parametrize("certainty", list(Certainty))
def test_every_template_reads_back(finding, certainty):
    """The template of a finding and place says just that: nothing else, nothing less."""
    for location in LOCATIONS:
        text = sentence_text(finding, certainty, location=location)
        expected = location if VOCABULARY[finding].place else None
        said = [(sentence.finding, sentence.certainty, sentence.location) for sentence in read(text)]
        assert said == [(finding, certainty, expected)], text


def test_a_report_is_read_with_spans_into_its_text():
    sentences = read(REPORT)
    said = [(sentence.section, sentence.finding, sentence.certainty.value, sentence.location) for sentence in sentences]
    assert said == [
        ("findings", "support device", "present", None),
        ("findings", "pleural effusion", "present", "left"),
        ("findings", "consolidation", "absent", None),
        ("findings", "lung opacity", "absent", None),
        ("findings", None, "present", None),
        ("impression", "pleural effusion", "present", "left"),
        ("impression", "fracture", "absent", None),
    ]
    assert REPORT[sentences[1].start : sentences[1].end] == "There is a\nsmall left pleural effusion."
    assert sentences[1].severity == "small"
    assert sentences[1].text == "There is pleural effusion of the left pleural space."
    assert sentences[4].text == "The XXXX are intact."
    assert {sentence.origin for sentence in sentences} == {"report"}


@pytest.mark.parametrize(
    "text",
    [
        "Comparison: None.",
        "Exam ended.",
        "Dictated by XXXX.",
        "XXXX.",
        "___",
        "See previous.",
        "",
        "None.",
        "These findings were discussed with Dr. Doe.",
        "No prior studies are available for comparison.",
    ],
)
def test_boilerplate_is_dropped(text):
    assert read(text) == ()


@pytest.mark.parametrize(
    ("text", "finding", "location", "severity"),
    [
        ("Small left effusion and moderate right pneumothorax.", "pleural effusion", "left", "small"),
        ("Small left effusion and moderate right pneumothorax.", "pneumothorax", "right", "moderate"),
        ("Opacity in the left base may represent pneumonia.", "pneumonia", "left base", None),
        ("Right basilar atelectasis or pneumonia.", "pneumonia", "right base", None),
        ("Large apical pneumothorax on the left.", "pneumothorax", "left apex", "large"),
        ("LLL consolidation.", "consolidation", "left lower", None),
        ("A 17 mm nodule in the right mid lung zone.", "nodule", "right middle", None),
        ("Pleural effusions, left greater than right.", "pleural effusion", "bilateral", None),
        ("In the right upper lobe, there is a mass.", "mass", "right upper", None),
        ("LUNGS: There is consolidation in the left upper lobe.", "consolidation", "left upper", None),
        ("Left effusion, cardiomegaly and edema.", "edema", None, None),
        ("Moderate left cardiomegaly.", "cardiomegaly", None, "moderate"),
        ("Both lungs are clear.", "consolidation", "bilateral", None),
        ("Both lungs are clear.", "lung opacity", "bilateral", None),
        ("Opacity of the left hemithorax due to large effusion.", "lung opacity", "left", None),
        ("Opacity of the left hemithorax due to large effusion.", "pleural effusion", "left", "large"),
        ("No large left effusion.", "pleural effusion", "left", None),
        ("Opacity at the left base with a meniscus, consistent with effusion.", "pleural effusion", "left base", None),
        ("Opacity at the left base and the trachea is deviated to the right.", "lung opacity", "left base", None),
        ("Effusion on the left with shift of the mediastinum to the right.", "pleural effusion", "left", None),
        ("14 mm nodule with well-defined margins in the right lung.", "nodule", "right", None),
        ("Effusion on the left and on the right.", "pleural effusion", "bilateral", None),
    ],
)
def test_where_and_how_large(text, finding, location, severity):
    (sentence,) = of(text, finding)
    assert (sentence.location, sentence.severity) == (location, severity)


def test_a_sign_states_what_it_implies_unless_that_is_denied():
    sign = "Blunting of the left costophrenic angle."
    (sentence,) = of(sign, "pleural effusion")
    assert (sentence.certainty, sentence.location) == (Certainty.PRESENT, "left")
    assert [sentence.certainty for sentence in of(f"{sign} No effusion.", "pleural effusion")] == [Certainty.ABSENT]
    assert read(f"{sign} No effusion.")[0].text == sign
    (sentence,) = of("Blunting of the costophrenic angle without effusion.", "pleural effusion")
    assert sentence.certainty is Certainty.ABSENT
    (sentence,) = of("Blunting of the costophrenic angle may represent effusion.", "pleural effusion")
    assert sentence.certainty is Certainty.UNCERTAIN


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Pericardial effusion.", "pleural effusion"),
        ("Subcutaneous emphysema.", "emphysema"),
        ("Cystic fibrosis.", "fibrosis"),
        ("Mass effect on the trachea.", "mass"),
        ("Masslike opacity.", "mass"),
        ("Knee effusion.", "pleural effusion"),
        ("HEART AND MEDIASTINUM: A large hiatal hernia is seen.", "cardiomegaly"),
    ],
)
def test_words_that_only_look_like_a_finding(text, finding):
    assert of(text, finding) == []


@pytest.mark.parametrize(
    ("abbreviation", "finding"),
    [
        ("PTX", "pneumothorax"),
        ("CHF", "heart failure"),
        ("ETT", "support device"),
        ("NG tube", "support device"),
        ("PICC", "support device"),
        ("infiltrates", "infiltration"),
        ("pneumothoraces", "pneumothorax"),
    ],
)
def test_abbreviations(abbreviation, finding):
    assert [sentence.finding for sentence in read(f"{abbreviation} noted.")] == [finding]


WORDS = st.sampled_from(
    [
        "no",
        "effusion",
        "heart",
        "is",
        "enlarged",
        "normal",
        "may",
        "possible",
        ",",
        ".",
        ":",
        "and",
        "or",
        "left",
        "bases",
        "FINDINGS:",
        "IMPRESSION:",
        "\n",
        "1.",
        "not",
        "seen",
        "clear",
        "lungs",
        "history of",
        "\x00",
        "İ",
        "ﬁ",
        "_",
        "’s",
    ]
)


@given(st.text() | st.lists(WORDS, max_size=40).map(" ".join))
def test_any_text_is_read_and_every_span_lies_in_it(text):
    last = (0, 0)
    for sentence in read(text):
        span = (sentence.start, sentence.end)
        assert 0 <= sentence.start < sentence.end <= len(text)
        assert sentence.start >= last[1] or span == last
        last = span
        assert sentence.finding is None or sentence.finding in VOCABULARY
        if sentence.finding is None:
            assert sentence.text == " ".join(text[sentence.start : sentence.end].split())


def test_a_colon_behind_a_finding_is_no_heading():
    (sentence,) = read("Effusion no : and left")
    assert sentence.finding == "pleural effusion"


@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_reading_again_gives_the_same(text):
    assert read(text) == read(text)


def test_a_long_text_without_stops_ends_soon():
    assert read("no effusion, " * 2000)
