import logging
from pathlib import Path

import numpy as np
import pytest

from tests.contracts.miniature import write_csv
from tests.ingest.archives.replicas import dicom_folder as replica
from tests.ingest.dicom_writing import GREY, header, uid, write
from tests.ingest.real_data import real_data
from vlp.errors import BackendError, DataError
from vlp.ingest import appearance, images
from vlp.ingest.archives.dicom_folder import DicomFolderSource, ReportFiles, ReportTable
from vlp.ingest.source import StudyFault
from vlp.records import LoadedStudy

FIRST, SECOND, THIRD = "1.2.826.0.1.0", "1.2.826.0.1.1", "1.2.826.0.1.2"


def _source(folder: Path, **values) -> DicomFolderSource:
    return DicomFolderSource(path=folder, **({"min_side_px": 16, "unlike_chest": "keep"} | values))


def _all(source: DicomFolderSource) -> tuple[dict[str, LoadedStudy], list[StudyFault]]:
    items = [item for unit in source.units() for item in source.load(unit)]
    faults = [item for item in items if isinstance(item, StudyFault)]
    return {item.study.id: item for item in items if isinstance(item, LoadedStudy)}, faults


def _only(folder: Path, **values) -> LoadedStudy:
    studies, faults = _all(_source(folder, **values))
    assert not faults, faults
    (study,) = studies.values()
    return study


def _code(folder: Path, **values) -> str:
    studies, faults = _all(_source(folder, **values))
    assert not studies
    (fault,) = faults
    return fault.code


def _said(caplog: pytest.LogCaptureFixture, what: str) -> int:
    """How often it was said; a record that two loggers hand on is one."""
    return len({id(record) for record in caplog.records if what in record.getMessage()})


@pytest.fixture
def export(tmp_path):
    return replica.build(tmp_path) and tmp_path


def test_studies_are_found_by_their_headers(export):
    studies, faults = _all(_source(export))
    assert set(studies) == {FIRST, SECOND, THIRD}
    first = studies[FIRST].study
    assert [image.view for image in first.images] == ["PA", "lateral"]
    assert (first.person.id, first.person.sex, first.person.age) == ("MRN-40711", "F", 61.0)
    assert first.report.text == "FINDINGS: Small left pleural effusion, zebrawood."
    assert studies[SECOND].study.earlier == (FIRST,)
    assert studies[SECOND].study.images[0].view == "PA"  # frontal, no more is known
    assert studies[THIRD].study.images[0].view == "other"
    assert studies[THIRD].study.person.groups["age group"] == "child"
    assert len(faults) == 4


def test_what_is_left_out_is_counted_and_said_once(export, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    caplog.set_level(logging.INFO)
    _source(export).units()
    assert "1 wrong_modality" in caplog.text
    assert "1 with the same content are passed over, 1 differ" in caplog.text
    assert "1 files are no DICOM" in caplog.text
    assert not [secret for secret in replica.SECRETS if secret in caplog.text]


def test_contradictions_are_counted_and_said_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    caplog.set_level(logging.INFO)
    for number in range(3):
        write(tmp_path / f"{number}", header(PatientID="secret", ViewPosition="PA", SeriesDescription="Chest lat"))
    _source(tmp_path).units()
    assert _said(caplog, "3 conflict:ViewPosition against SeriesDescription") == 1
    assert "secret" not in caplog.text


@pytest.mark.real_data
def test_the_real_files_are_an_archive():
    studies, faults = _all(DicomFolderSource(path=real_data("dicom")))
    assert len(studies) == 7
    assert {loaded.study.images[0].view for loaded in studies.values()} == {"PA", "AP"}
    assert sorted(fault.code for fault in faults) == [
        "excluded_not_chest",
        "excluded_wrong_modality",
        "missing_attribute:PatientID",
    ]


def test_img_31_images_whose_header_says_that_they_identify_are_left_out(tmp_path):
    write(tmp_path / "1", header(BurnedInAnnotation="YES", StudyInstanceUID="1.2.3"))
    assert _code(tmp_path) == "excluded_identifying_pixels"
    assert len(_only(tmp_path, identifying_pixels="keep").pixels) == 1
    write(tmp_path / "2", header(GREY[::-1], BurnedInAnnotation="NO", StudyInstanceUID="1.2.3"))
    assert len(_only(tmp_path).pixels) == 1
    write(tmp_path / "2", header(GREY[::-1], RecognizableVisualFeatures="YES", StudyInstanceUID="1.2.3"))
    studies, faults = _all(_source(tmp_path))
    assert not studies
    assert {fault.code for fault in faults} == {"excluded_identifying_pixels"}


def test_img_32_a_study_of_two_patients_is_refused(tmp_path):
    study = uid.generate_uid()
    write(tmp_path / "1", header(PatientID="secret-a", StudyInstanceUID=study))
    write(tmp_path / "2", header(PatientID="secret-b", StudyInstanceUID=study))
    write(tmp_path / "3", header(PatientID="secret-a"))  # its other studies are unharmed
    studies, (fault,) = _all(_source(tmp_path))
    assert fault.code == "mixed_patients"
    assert "secret" not in fault.message
    assert [loaded.study.person.id for loaded in studies.values()] == ["secret-a"]


def test_img_33_another_image_under_the_same_uid_is_refused_and_the_first_kept(tmp_path):
    dataset = header(StudyInstanceUID="1.2.3")
    write(tmp_path / "1", dataset)
    write(tmp_path / "2", header(GREY[::-1], StudyInstanceUID="1.2.3", SOPInstanceUID=dataset.SOPInstanceUID))
    studies, (fault,) = _all(_source(tmp_path))
    assert fault.code == "uid_conflict"
    assert studies["1.2.3"].study.images[0].path == tmp_path / "1"
    assert len(studies["1.2.3"].pixels) == 1


def test_img_33_the_same_image_again_is_passed_over(tmp_path):
    dataset = header(StudyInstanceUID="1.2.3")
    write(tmp_path / "1", dataset)
    write(tmp_path / "2", dataset, uid.ImplicitVRLittleEndian)  # other bytes, same pixels
    assert len(_only(tmp_path).pixels) == 1


def test_img_28_a_mirrored_image_is_a_fault_unless_it_is_to_be_kept(tmp_path):
    write(tmp_path / "1", header(ViewPosition="PA", PatientOrientation=["R", "F"]))
    assert _code(tmp_path) == "orientation:mirrored"
    kept = _only(tmp_path, mirrored="keep").pixels[0]
    write(tmp_path / "1", header(ViewPosition="PA", PatientOrientation=["L", "F"]))
    assert np.array_equal(_only(tmp_path).pixels[0], kept)  # nothing is ever turned or flipped
    write(tmp_path / "1", header(ViewPosition="PA", PatientOrientation=["F", "R"]))
    assert _code(tmp_path) == "orientation:rotated"


def test_img_06_a_header_that_lies_about_polarity_is_found_in_the_pixels(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("vlp"), "propagate", True)
    monkeypatch.setattr(images, "_told", set())
    chest = np.kron(appearance._MEAN + 100, np.ones((8, 8))).astype(np.uint16)  # the mean film itself
    write(tmp_path / "1", header(chest, bits=8, ViewPosition="PA"))
    good = _only(tmp_path, unlike_chest="fault").pixels[0]
    write(tmp_path / "1", header(255 - chest, bits=8, ViewPosition="PA"))
    assert _code(tmp_path, unlike_chest="fault") == "inverted_polarity"
    assert np.array_equal(_only(tmp_path, unlike_chest="fault", inverted="invert").pixels[0], good)
    assert _said(caplog, "inverted_by_appearance") == 1
    assert np.array_equal(_only(tmp_path).pixels[0], 255 - good)
    write(tmp_path / "1", header(np.rot90(chest), bits=8, ViewPosition="PA"))
    assert _code(tmp_path, unlike_chest="fault") == "rotated_image"


def test_img_30_thumbnails_are_faults_by_default(tmp_path):
    write(tmp_path / "1", header())
    assert DicomFolderSource(path=tmp_path).min_side_px == 224
    assert _code(tmp_path, min_side_px=224) == "bad_geometry"


def test_img_27_views_that_no_header_states_follow_the_configuration(tmp_path):
    write(tmp_path / "1", header())
    assert _only(tmp_path).study.images[0].view == "other"
    assert _only(tmp_path, unstated_view="AP").study.images[0].view == "AP"
    write(tmp_path / "1", header(PatientOrientation=["L", "F"]))
    assert _only(tmp_path, unstated_frontal="other").study.images[0].view == "other"
    write(tmp_path / "1", header(ViewPosition="LL"))
    assert _only(tmp_path, unstated_view="AP").study.images[0].view == "lateral"


def test_patients_without_a_number(tmp_path):
    write(tmp_path / "1", header(PatientID="", StudyInstanceUID="1.2.3"))
    assert _code(tmp_path) == "missing_attribute:PatientID"
    assert _only(tmp_path, unnamed_patients="study").study.person.id == "study 1.2.3"


def test_studies_of_other_things(tmp_path):
    write(tmp_path / "1", header(BodyPartExamined="HAND"))
    assert _code(tmp_path) == "excluded_not_chest"
    assert _code(tmp_path, other_objects="fault") == "not_chest"
    write(tmp_path / "1", replica._report(pytest.importorskip("tests.ingest.dicom_writing"), PatientID="p1"))
    assert _code(tmp_path) == "excluded_no_image"


def test_a_damaged_image_spoils_its_study_alone(tmp_path):
    write(tmp_path / "1", header(StudyInstanceUID="1.2.1"))
    path = write(tmp_path / "2", header(StudyInstanceUID="1.2.2"))
    path.write_bytes(path.read_bytes()[:-10])
    studies, (fault,) = _all(_source(tmp_path))
    assert set(studies) == {"1.2.1"}
    assert fault.code == "truncated_pixel_data"
    assert "file 2 of 2" in fault.message


@pytest.mark.parametrize("key", ["study_uid", "accession"])
def test_reports_from_a_table(tmp_path, key):
    write(tmp_path / "d/1", header(StudyInstanceUID="1.2.3", AccessionNumber="A7"))
    name = {"study_uid": "1.2.3", "accession": "A7"}[key]
    table = tmp_path / "reports.csv"
    reports = ReportTable(path=table, key=key, key_column="id", text_column="text")
    write_csv(table, [{"id": name, "text": "Clear."}, {"id": "other", "text": "No."}, {"id": name, "text": "Clear."}])
    before = _source(tmp_path / "d", reports=reports).fingerprint()
    assert _only(tmp_path / "d", reports=reports).study.report.text == "Clear."
    write_csv(table, [{"id": name, "text": "Clear."}, {"id": name, "text": "Different."}])
    assert _code(tmp_path / "d", reports=reports) == "bad_report"
    assert _source(tmp_path / "d", reports=reports).fingerprint() != before
    write_csv(table, [{"id": "other", "text": "No."}])
    assert _only(tmp_path / "d", reports=reports).study.report is None


def test_reports_from_text_files(tmp_path):
    write(tmp_path / "d/1", header(StudyInstanceUID="1.2.3", AccessionNumber="A7"))
    (tmp_path / "t").mkdir()
    reports = ReportFiles(path=tmp_path / "t")
    assert _only(tmp_path / "d", reports=reports).study.report is None
    (tmp_path / "t/A7.txt").write_bytes("\ufeffKein Erguß.".encode())
    assert _only(tmp_path / "d", reports=reports).study.report.text == "Kein Erguß."
    (tmp_path / "t/A7.txt").write_bytes(b"Ergu\xdf")
    assert _code(tmp_path / "d", reports=reports) == "bad_report"


def test_an_accession_number_leads_nowhere_else(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "t").mkdir()
    write(tmp_path / "d/1", header(AccessionNumber="../secret"))
    assert _only(tmp_path / "d", reports=ReportFiles(path=tmp_path / "t")).study.report is None


def test_an_empty_or_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no DICOM file"):
        _source(tmp_path).units()
    with pytest.raises(DataError, match="no such folder"):
        _source(tmp_path / "nowhere").units()


def test_without_pydicom_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"vlp\[dicom\]"):
        _source(tmp_path).units()


def test_the_configuration_can_be_read_without_pydicom():
    import subprocess
    import sys

    program = "import sys, vlp.ingest.archives.dicom_folder; assert 'pydicom' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
