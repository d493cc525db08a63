import os
from pathlib import Path

import pytest

from benchmarks.labeler import NAMES, Error, GoldReport, evaluate, find_errors
from vlp.ingest.phantom.truth import FINDINGS
from vlp.records import Certainty
from vlp.reports import label, read, resolve
from vlp.reports.findings import LABEL_SETS

PRESENT, ABSENT, UNCERTAIN = Certainty.PRESENT, Certainty.ABSENT, Certainty.UNCERTAIN


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Possible edema. No edema.", UNCERTAIN),
        ("No edema. Possible edema. Edema.", PRESENT),
        ("No edema. No edema.", ABSENT),
        ("Edema. No edema.", PRESENT),
    ],
)
def test_present_outweighs_uncertain_outweighs_absent(text, certainty):
    assert label(text) == {"edema": certainty}
    assert label(text, names="nih14") == {"Edema": certainty}


def test_what_is_not_mentioned_has_no_key():
    assert label("") == {}
    assert label("", names="chexpert14") == {}
    assert label("The bones are unremarkable.") == {}
    assert label("The bones are unremarkable.", names="nih14") == {}


def test_a_report_in_another_language_has_no_labels():
    assert label("Kein Pneumothorax. Das Herz ist normal.", names="chexpert14") == {}
    assert label("Pneumothorax.", language="es") == {}
    assert label("Pneumothorax.", language="en-US") == {"pneumothorax": PRESENT}


@pytest.mark.parametrize(
    ("text", "chexpert", "nih"),
    [
        ("Right nodule.", {"Lung Lesion": PRESENT}, {"Nodule": PRESENT}),
        ("Infiltrate.", {"Lung Opacity": PRESENT}, {"Infiltration": PRESENT}),
        ("Pleural thickening.", {"Pleural Other": PRESENT}, {"Pleural_Thickening": PRESENT}),
        ("Possible mass. Nodule.", {"Lung Lesion": PRESENT}, {"Mass": UNCERTAIN, "Nodule": PRESENT}),
        ("CHF.", {"Edema": PRESENT}, {}),
        ("Pneumonia.", {"Pneumonia": PRESENT}, {"Pneumonia": PRESENT}),
        ("Emphysema.", {"No Finding": PRESENT}, {"Emphysema": PRESENT}),
    ],
)
def test_label_sets_take_the_mentions_that_belong_to_them(text, chexpert, nih):
    assert label(text, names="chexpert14") == chexpert
    assert label(text, names="nih14") == nih


def test_no_finding_gives_way_to_findings_but_not_to_devices():
    assert label("No acute cardiopulmonary process.", names="chexpert14") == {"No Finding": PRESENT}
    assert label("No acute cardiopulmonary process. PICC.")["no finding"] is PRESENT
    assert label("No acute cardiopulmonary process. PICC.", names="chexpert14")["No Finding"] is PRESENT
    assert label("No acute cardiopulmonary process. Cardiomegaly.")["no finding"] is ABSENT
    assert "No Finding" not in label("No acute process. Possible edema.", names="chexpert14")
    assert label("No effusion.", names="chexpert14") == {"Pleural Effusion": ABSENT, "No Finding": PRESENT}


def test_official_names_come_in_the_official_order():
    found = label("Edema. No pneumothorax. Nodule. Cardiomegaly.", names="nih14")
    assert list(found) == [name for name in LABEL_SETS["nih14"] if name in found]
    assert resolve(read("Edema. No pneumothorax. Nodule. Cardiomegaly."), names="nih14") == found


def test_what_a_phantom_report_says_by_name_is_read_as_it_was_meant():
    from vlp.ingest.phantom.history import HistoryConfig, person
    from vlp.ingest.phantom.prose import compose

    meant = right = 0
    for index in range(40):
        for truth in person(index, seed=11, settings=HistoryConfig()):
            report = compose(truth)
            sentences = read(report.text)
            for mention in (mention for mention in report.mentions if mention.named):
                assert mention.finding in FINDINGS
                meant += 1
                right += any(
                    sentence.finding == mention.finding
                    and sentence.certainty is mention.certainty
                    and sentence.start < mention.end
                    and mention.start < sentence.end
                    for sentence in sentences
                )
    assert meant > 300
    assert right / meant > 0.97


def test_errors_are_counted_by_name_and_words():
    gold = {"Edema": True, "Nodule": True}
    labels = tuple(gold.get(name, False) for name in NAMES)
    reports = [GoldReport(text="No edema. Nodular scar. Mass.", gold=labels, half="dev")] * 2
    assert set(find_errors(reports)) == {
        (2, Error(name="Edema", kind="missed", read_as="absent", words="No edema.")),
        (2, Error(name="Mass", kind="false alarm", read_as="present", words="Mass.")),
        (2, Error(name="Nodule", kind="missed", read_as="not read", words="Nodular scar.")),
    }


@pytest.mark.real_data
def test_gold_labels_of_reports_that_no_wording_was_chosen_on():
    data = Path(os.environ.get("VLP_SHARED_DATA", "../shared/data"))
    if not (data / "text" / "iu_xray_reports.jsonl.gz").is_file():
        pytest.skip(f"no Open-I reports under {data}: set VLP_SHARED_DATA to the folder of real data")
    rows = {row["name"].partition(",")[0]: row for row in evaluate(data, halves=("held-out",))}
    assert rows["micro"]["reports"] > 1000
    assert rows["micro"]["f1"] >= 0.945
    assert rows["macro"]["f1"] >= 0.92
