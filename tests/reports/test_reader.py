import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.labeler import agreement, load_checked
from vlp.records import Certainty
from vlp.reports import read, read_report
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
    assert sentences[4].text == "The ___ are intact."
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
        "Recommend follow-up in 6 weeks.",
        "Clinical correlation is advised.",
        "AP chest compared to ___ through ___:",
        "WET READ: ___ ___ 9:53 PM",
        "Portable view of the chest was obtained.",
        "_" * 5000,
    ],
)
def test_boilerplate_is_dropped(text):
    assert read(text) == ()


def test_what_gives_no_sentence_is_counted_by_reason():
    text = "Dictated by XXXX. History of pneumonia. Heart size is unchanged. No change. No new opacity. Left opacity."
    reading = read_report(text)
    assert [sentence.finding for sentence in reading.sentences] == ["lung opacity"]
    assert reading.left_out == {"about the work": 1, "past or supposed": 1, "only compares": 2, "overruled": 1}
    assert reading.language == "en"
    assert read_report("").left_out == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("WET READ: No pneumothorax.\nFINDINGS: Small pneumothorax.", {"present"}),
        ("FINDINGS: Pneumothorax.\nADDENDUM: No pneumothorax.", {"absent"}),
        ("ADDENDUM: No pneumothorax.\nFINDINGS: Pneumothorax.", {"absent"}),
        ("FINDINGS: Left pneumothorax.\nADDENDUM: No right pneumothorax.", {"present", "absent"}),
        ("FINDINGS: No pneumothorax.\nIMPRESSION: Pneumothorax.", {"present", "absent"}),
        ("FINDINGS: Pneumothorax.\nADDENDUM: Discussed by phone.", {"present"}),
    ],
)
def test_the_later_part_of_a_report_overrules_the_earlier(text, said):
    assert {sentence.certainty.value for sentence in of(text, "pneumothorax")} == said


@pytest.mark.parametrize("language", [None, "de"])
def test_another_language_keeps_its_words_and_states_nothing(language):
    reading = read_report("Befund: Kein Pneumothorax. Das Herz ist\nnormal.", language=language)
    assert reading.language == "de"
    assert [(one.section, one.finding, one.text) for one in reading.sentences] == [
        ("findings", None, "Kein Pneumothorax."),
        ("findings", None, "Das Herz ist normal."),
    ]
    assert read("Pneumothorax.", language="es")[0].finding is None
    assert read("Pneumothorax.", language="en")[0].finding == "pneumothorax"


def test_the_hand_checked_sentences_are_read_as_expected():
    checked = list(load_checked())
    assert len(checked) > 300
    wrong = [(one.written, one.expected, one.found) for one in checked if one.expected != one.found]
    assert not wrong
    assert agreement(checked)[-1]["share"] == 1.0


def test_a_wrong_reading_lowers_the_agreement(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(
        "reports: [{text: 'Edema. Mass.', sentences: [{section: report, written: Mass., says: []}]}]\n"
        "sentences: [{written: Edema., says: [[edema, present, ~, ~, There is edema.]]}]\n"
    )
    checked = list(load_checked(path))
    assert [one.expected == one.found for one in checked] == [False, False, True]
    assert [row["right"] for row in agreement(checked)] == [1] * 8


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
        ("Effusion has decreased from large to small.", "pleural effusion", None, "small"),
        ("Slightly increased left effusion.", "pleural effusion", "left", None),
        ("B/l effusions.", "pleural effusion", "bilateral", None),
        ("No effusion on the left or right.", "pleural effusion", "bilateral", None),
    ],
)
def test_where_and_how_large(text, finding, location, severity):
    (sentence,) = of(text, finding)
    assert (sentence.location, sentence.severity) == (location, severity)


@pytest.mark.parametrize(
    ("text", "finding", "said"),
    [
        ("Right upper and left lower lobe scarring.", "scarring", [("right upper", None), ("left lower", None)]),
        ("Small left and moderate right effusions.", "pleural effusion", [("left", "small"), ("right", "moderate")]),
        ("Left nodule and right nodule.", "nodule", [("left", None), ("right", None)]),
        ("An opacity is seen, the opacity is in the left base.", "lung opacity", [("left base", None)]),
        ("Right chest tube removed, left chest tube in place.", "support device", [("right", None), ("left", None)]),
    ],
)  # fmt: skip
def test_several_places_are_several_statements_with_one_span(text, finding, said):
    sentences = of(text, finding)
    assert [(sentence.location, sentence.severity) for sentence in sentences] == said
    assert len({(sentence.start, sentence.end) for sentence in sentences}) == 1


COMPARED = [
    ("Interval improvement of the left effusion.", "There is pleural effusion of the left pleural space."),
    ("Left effusion is unchanged.", "There is pleural effusion of the left pleural space."),
    ("Stable left effusion.", "There is pleural effusion of the left pleural space."),
    ("Worsening left effusion.", "There is pleural effusion of the left pleural space."),
    ("New left effusion.", "There is pleural effusion of the left pleural space."),
    ("Left effusion, increased compared with prior.", "There is pleural effusion of the left pleural space."),
    ("The left effusion has decreased since the prior study.", "There is pleural effusion of the left pleural space."),
    ("Nearly resolved left effusion.", "There is pleural effusion of the left pleural space."),
    ("No change in the left effusion.", "There is pleural effusion of the left pleural space."),
    ("Resolved pneumothorax.", "There is no pneumothorax."),
    ("The pneumothorax is no longer seen.", "There is no pneumothorax."),
    ("The pneumothorax has cleared.", "There is no pneumothorax."),
    ("No new pneumothorax.", "There is no pneumothorax."),
    ("Interval resolution of the pneumothorax.", "There is no pneumothorax."),
    ("Interval removal of the left chest tube.", "There is no support device of the left hemithorax."),
    ("Possible interval increase in the left effusion.", "There may be pleural effusion of the left pleural space."),
]


@pytest.mark.parametrize(("text", "template"), COMPARED)
def test_comparison_becomes_what_is_there_now_and_the_span_keeps_the_words(text, template):
    (sentence,) = read(text)
    assert sentence.text == template
    assert text[sentence.start : sentence.end] == text


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
        assert sentence.text


def test_a_colon_behind_a_finding_is_no_heading():
    (sentence,) = read("Effusion no : and left")
    assert sentence.finding == "pleural effusion"


@given(st.lists(WORDS, max_size=40).map(" ".join))
def test_reading_again_gives_the_same(text):
    assert read(text) == read(text)


def test_a_long_text_without_stops_ends_soon():
    assert read("no effusion, " * 2000)
