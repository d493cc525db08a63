import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlp.reports.sections import find_sections, report_text

MIMIC = (
    "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n"
    " INDICATION:  ___ year old with cough, eval for pneumonia\n \n COMPARISON:  ___\n \n"
    " FINDINGS: \n \n The lungs are\n clear.\n \n IMPRESSION: \n \n 1. No pneumonia.\n"
)


def named(text):
    return [(section.name, text[section.start : section.end]) for section in find_sections(text)]


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("Lungs are clear.", [("report", "Lungs are clear.")]),
        ("", []),
        ("  \n ", []),
        ("FINDINGS: A. IMPRESSION: B.", [("findings", "A."), ("impression", "B.")]),
        ("history: x. findings: a. impression: b.", [("history", "x."), ("findings", "a."), ("impression", "b.")]),
        ("Findings\nA.\nImpression\nB.", [("findings", "A."), ("impression", "B.")]),
        ("IMPRESSION:No edema.", [("impression", "No edema.")]),
        ("FINDINGS AND IMPRESSION: A.", [("findings", "A.")]),
        ("Comparison: None. Findings: A.", [("comparison", "None."), ("findings", "A.")]),
        ("HALLAZGOS: A. IMPRESIÓN: B.", [("findings", "A."), ("impression", "B.")]),
        ("FINDINGS:\nIMPRESSION: B.", [("impression", "B.")]),
        ("WET READ: A.\nADDENDUM: B.", [("wet read", "A."), ("addendum", "B.")]),
        ("FINAL ADDENDUM\nA.\n________________\nFINAL REPORT\nB.", [("addendum", "A."), ("report", "B.")]),
        ("FINDINGS/IMPRESSION: A.", [("findings", "A.")]),
        ("a. FINDINGS & IMPRESSION: B.", [("report", "a."), ("findings", "B.")]),
        ("A. Impression/ Plan: B.", [("report", "A."), ("impression", "B.")]),
        ("IMPRESSION AND RECOMMENDATIONS: B.", [("impression", "B.")]),
        ("ASSESSMENT & PLAN: B.", [("impression", "B.")]),
        ("REASON FOR THIS EXAMINATION: x\nFINDINGS: A.", [("indication", "x"), ("findings", "A.")]),
        ("AP CHEST, 9:10 P.M., ___\n\nHISTORY: x\n\nA.", [("history", "x"), ("report", "A.")]),
        ("PORTABLE CHEST, ___\nA.", [("report", "A.")]),
        ("PA and lateral views of the chest: A.", [("report", "A.")]),
        ("CHEST, TWO VIEWS: <DATE> <TIME>\n\nA.", [("report", "<DATE> <TIME>\n\nA.")]),
        ("NARRATIVE:\nA.\nIMPRESSION:\n1. B.", [("report", "A."), ("impression", "1. B.")]),
        ("IMPRESSION:\nB.\nEND OF IMPRESSION\nc", [("impression", "B."), ("other", "c")]),
        ("IMPRESSION: B.\nSUMMARY: 2-ABNORMAL\nc", [("impression", "B."), ("other", "2-ABNORMAL\nc")]),
        ("FINDINGS: A.\nSUMMARY: B.", [("findings", "A."), ("impression", "B.")]),
        ("PROCEDURE COMMENTS: x.\nFINDINGS: A.", [("technique", "x."), ("findings", "A.")]),
        ("Befund: A.\nBeurteilung: B.", [("findings", "A."), ("impression", "B.")]),
        ("STABLE APPEARANCE OF THE CHEST\nA.", [("report", "STABLE APPEARANCE OF THE CHEST\nA.")]),
        ("The chest:\nA.", [("report", "A.")]),
    ],
)  # fmt: skip
def test_dialects(text, sections):
    assert named(text) == sections


def test_a_mimic_report():
    sections = dict(named(MIMIC))
    assert list(sections) == ["exam", "indication", "comparison", "findings", "impression"]
    assert sections["findings"] == "The lungs are\n clear."
    assert sections["impression"] == "1. No pneumonia."


def test_prose_below_a_blank_line_is_not_part_of_the_history():
    text = "HISTORY: Pneumonia last year.\n\nThe lungs are clear.\n\nIMPRESSION: Normal."
    assert named(text) == [
        ("history", "Pneumonia last year."),
        ("report", "The lungs are clear."),
        ("impression", "Normal."),
    ]


@pytest.mark.parametrize("text", ["In comparison: larger. The views: two.", "The history is long.\nNo change."])
def test_a_heading_word_within_a_sentence_is_no_heading(text):
    assert named(text)[0][0] == "report"
    assert "history" not in dict(named(text))


PIECES = st.lists(st.sampled_from(["FINDINGS:", "impression:", "\n", "\n\n", "History:", "a. ", "  "])).map("".join)


@given(st.text() | PIECES)
def test_sections_are_in_order_apart_and_without_space_around(text):
    end = 0
    for section in find_sections(text):
        assert end <= section.start < section.end <= len(text)
        assert text[section.start : section.end] == text[section.start : section.end].strip()
        end = section.end


def test_a_report_made_of_columns_reads_back_by_section():
    columns = {"section_clinical_history": "Cough.", "section_comparison": " ", "section_findings": "Lungs clear.",
               "Impression": "Normal."}  # fmt: skip
    text = report_text(columns)
    assert named(text) == [("history", "Cough."), ("findings", "Lungs clear."), ("impression", "Normal.")]
    assert named(report_text({"comparison": "None.", "last_paragraph": "Lungs clear."}))[-1] == (
        "report",
        "Lungs clear.",
    )
    assert report_text({"findings": ""}) == ""


def test_a_page_of_blanks_rules_and_headings_ends_soon():
    for piece in ("_", " ", "\n \n", "CHEST ", "AP, ", "FINDINGS", "a:", "9:10 P.M., "):
        find_sections(piece * 20_000)
