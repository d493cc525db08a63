from pathlib import Path

import pytest

from tests.ingest.dicom_writing import Dataset, code, items, uid, write
from vlp.ingest.dicom_file import open_dicom
from vlp.ingest.dicom_reports import is_report, latest, report_text


def text_item(value: str, name: str = "Finding", **elements) -> dict:
    return {"RelationshipType": "CONTAINS", "ValueType": "TEXT", "ConceptNameCodeSequence": code("1", name),
            "TextValue": value, **elements}  # fmt: skip


def section(name: str, *content: dict) -> dict:
    return {"RelationshipType": "CONTAINS", "ValueType": "CONTAINER", "ConceptNameCodeSequence": code("2", name),
            "ContentSequence": items(*content)}  # fmt: skip


def report(*content: dict, **elements) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.BasicTextSRStorage, uid.generate_uid()
    dataset.Modality, dataset.PatientID, dataset.ValueType = "SR", "p1", "CONTAINER"
    dataset.ConceptNameCodeSequence = code("11528-7", "Radiology Report")
    dataset.ContentSequence = items(*content)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def _text(folder: Path, *content: dict) -> str:
    return report_text(open_dicom(write(folder / "r", report(*content))))


def test_sections_become_headed_lines_in_their_order(tmp_path):
    text = _text(
        tmp_path,
        section("Findings", text_item("Small left effusion.\nNo pneumothorax."), text_item("Heart normal.")),
        section("Impression", text_item("Effusion.", name="Conclusion")),
    )
    assert text == "FINDINGS: Small left effusion.\nNo pneumothorax.\nHeart normal.\nIMPRESSION: Effusion."


def test_texts_without_a_section_keep_their_own_names(tmp_path):
    assert _text(tmp_path, text_item("Clear lungs.", name="Findings")) == "FINDINGS: Clear lungs."


def test_codes_and_measurements_are_words_too(tmp_path):
    coded = {"RelationshipType": "CONTAINS", "ValueType": "CODE", "ConceptNameCodeSequence": code("1", "Finding"),
             "ConceptCodeSequence": code("60046008", "Pleural effusion")}  # fmt: skip
    measured = {"RelationshipType": "CONTAINS", "ValueType": "NUM", "ConceptNameCodeSequence": code("3", "Diameter"),
                "MeasuredValueSequence": items({"NumericValue": "12.5",
                                                "MeasurementUnitsCodeSequence": code("mm", "millimetre")})}  # fmt: skip
    assert _text(tmp_path, coded, measured) == "FINDING: Pleural effusion\nDIAMETER: Diameter 12.5 mm"


def test_names_dates_and_context_stay_out(tmp_path):
    observer = {"RelationshipType": "HAS OBS CONTEXT", "ValueType": "TEXT", "TextValue": "Dr House"}  # fmt: skip
    name = {"RelationshipType": "CONTAINS", "ValueType": "PNAME", "PersonName": "House^Greg"}
    assert _text(tmp_path, observer, name, text_item("Clear.")) == "FINDING: Clear."


def test_an_empty_report_is_no_text(tmp_path):
    assert _text(tmp_path) == ""
    assert _text(tmp_path, section("Findings"), text_item("")) == ""


def test_nesting_without_end_ends(tmp_path):
    inner = text_item("deep")
    for _ in range(60):
        inner = section("S", inner)
    assert _text(tmp_path, inner) == ""


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [(uid.BasicTextSRStorage, True), (uid.EnhancedSRStorage, True), (uid.ComprehensiveSRStorage, True),
     (uid.XRayRadiationDoseSRStorage, False), (uid.KeyObjectSelectionDocumentStorage, False),
     (uid.ChestCADSRStorage, False)],
)  # fmt: skip
def test_only_classes_of_reports_are_reports(tmp_path, sop_class, expected):
    assert is_report(open_dicom(write(tmp_path / "r", report(SOPClassUID=sop_class)))) == expected


def test_the_latest_complete_verified_report_counts(tmp_path):
    kinds = {
        "a": {"ContentDate": "20200101", "VerificationFlag": "VERIFIED", "CompletionFlag": "COMPLETE"},
        "b": {"ContentDate": "20200103", "VerificationFlag": "UNVERIFIED", "CompletionFlag": "COMPLETE"},
        "c": {"ContentDate": "20200102", "VerificationFlag": "VERIFIED", "CompletionFlag": "COMPLETE"},
        "d": {"ContentDate": "20200104", "VerificationFlag": "VERIFIED", "CompletionFlag": "PARTIAL"},
    }
    files = [(Path(name), open_dicom(write(tmp_path / name, report(text_item(name), **kind))))
             for name, kind in kinds.items()]  # fmt: skip
    for order in (files, files[::-1]):
        assert report_text(latest(order)) == "FINDING: c"
    assert latest([]) is None
