import csv
import gzip

import pytest

from tests.ingest.real_data import real_data
from vlp.ingest.archives.mesh import findings_of, labels_of
from vlp.ingest.archives.open_i_reports import KaggleReports
from vlp.records import Certainty
from vlp.reports.findings import LABEL_SETS, VOCABULARY


@pytest.mark.parametrize(
    ("code", "findings"),
    [
        ("normal", ("no finding",)),
        ("Opacity/lung/base/left", ("lung opacity",)),
        ("Opacity/ribs", ()),
        ("Pulmonary Atelectasis/base/bilateral", ("atelectasis",)),
        ("Thickening/pleura/apex/left", ("pleural thickening",)),
        ("Thickening/bronchovascular", ()),
        ("Hydropneumothorax/left/large", ("pneumothorax", "pleural effusion")),
        ("Pericardial Effusion/mild", ("pericardial effusion",)),
        ("Mass/breast", ()),
        ("Mass/lung/apex", ("mass",)),
        ("Aorta, Thoracic/tortuous", ("tortuous aorta",)),
        ("Aorta/enlarged", ()),
        ("Lung/bilateral/hyperdistention", ("hyperinflation",)),
        ("Fractures, Bone/ribs/right", ("fracture",)),
        ("Catheters, Indwelling/left", ("support device",)),
        ("Subcutaneous Emphysema", ("subcutaneous emphysema",)),
        ("Technical Quality of Image Unsatisfactory ", ()),
        ("", ()),
    ],
)
def test_codes_state_findings(code, findings):
    assert findings_of(code) == findings
    assert set(findings) <= set(VOCABULARY)


def test_what_is_not_coded_is_absent_or_unmentioned_as_asked():
    labels = labels_of(["Pleural Effusion/left"], unnamed="absent")
    assert set(labels) == {*LABEL_SETS["nih14"].values(), "no finding"}
    assert [name for name, certainty in labels.items() if certainty is Certainty.PRESENT] == ["pleural effusion"]
    assert labels_of(["Pleural Effusion/left"], unnamed="unmentioned") == {"pleural effusion": Certainty.PRESENT}


@pytest.mark.parametrize("codes", [[], [""], ["No Indexing"], ["No Indexing", "normal"]])
def test_a_report_nobody_coded_has_no_label(codes):
    assert labels_of(codes, unnamed="absent") == {}


def test_an_enlarged_shadow_leaves_the_heart_open():
    assert "cardiomegaly" not in labels_of(["Cardiac Shadow/enlarged"], unnamed="absent")
    both = labels_of(["Cardiac Shadow/enlarged", "Cardiomegaly/mild"], unnamed="absent")
    assert both["cardiomegaly"] is Certainty.PRESENT


@pytest.mark.real_data
def test_the_real_codes_give_the_labels_others_made_from_them():
    """The NCBI's 14 labels of the same 3,080 reports, made from the same codes by other people."""
    reports = KaggleReports(real_data("native", "openi"))
    entries = {(entry := reports.entry(unit)).id: entry for unit in reports.units()}
    with gzip.open(real_data("native", "openi", "openi_gld_std14.csv.gz"), "rt") as file:
        gold = {row["filename"]: row for row in csv.DictReader(file)}
    assert len(gold) == 3080
    names = {**LABEL_SETS["nih14"], "normal": "no finding"}
    ours_alone, theirs_alone = {}, {}
    for label, finding in names.items():
        ours = {id_ for id_ in gold if _present(entries[id_], finding)}
        theirs = {id_ for id_, row in gold.items() if row[label] == "1"}
        if ours != theirs:
            ours_alone[label], theirs_alone[label] = len(ours - theirs), len(theirs - ours)
    # They left hernias out, knew no hydropneumothorax and no bullous emphysema, and counted pericardial effusions
    # and thickened bronchi in.
    assert ours_alone == {"Effusion": 1, "Pneumothorax": 3, "Emphysema": 3, "Pleural_Thickening": 0, "Hernia": 41}
    assert theirs_alone == {"Effusion": 4, "Pneumothorax": 0, "Emphysema": 0, "Pleural_Thickening": 8, "Hernia": 0}


def _present(entry, finding):
    return labels_of(entry.codes, unnamed="absent").get(finding) is Certainty.PRESENT
