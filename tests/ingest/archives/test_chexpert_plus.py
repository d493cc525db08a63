import pytest

from tests.ingest.archives.replicas import chexpert_plus as replica
from tests.ingest.archives.replicas.mimic_cxr_dicom import write_dicom
from vlp.errors import DataError
from vlp.ingest.archives.chexpert_plus import CheXpertPlusSource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports.sections import find_sections


@pytest.fixture
def archive(tmp_path):
    replica.build(tmp_path)
    return tmp_path


def _studies(source):
    items = [item for unit in source.units() for item in source.load(unit)]
    return {item.study.id: item.study for item in items if not isinstance(item, StudyFault)}


def test_a_study_has_its_report_as_written_and_its_person(archive):
    study = _studies(CheXpertPlusSource(path=archive))["patient42142_study5"]
    assert study.report.text == replica.REPORT
    assert [image.view for image in study.images] == ["AP", "lateral"]
    assert (study.person.age, study.person.sex, study.split) == (61.0, "F", "train")
    assert dict(study.person.groups) == {
        "race": "White, non-Hispanic",
        "ethnicity": "Non-Hispanic/Non-Latino",
        "insurance": "Medicare",
    }
    assert study.labels == {"pleural effusion": Certainty.PRESENT, "pneumothorax": Certainty.ABSENT}


def test_studies_are_in_the_order_of_their_reports(archive):
    studies = _studies(CheXpertPlusSource(path=archive))
    assert list(studies)[:2] == ["patient42142_study2", "patient42142_study5"]
    assert studies["patient42142_study5"].earlier == ("patient42142_study2",)
    assert studies["patient42142_study2"].report is None
    assert studies["patient42142_study2"].labels == {}


def test_what_is_unknown_of_a_person_is_left_open(archive):
    study = _studies(CheXpertPlusSource(path=archive))["patient64551_study1"]
    assert (study.person.age, study.person.sex, dict(study.person.groups), study.split) == (None, None, {}, "val")
    assert study.images[0].view == "AP"
    assert study.labels == {}


def test_the_report_put_together_from_its_sections(archive):
    report = _studies(CheXpertPlusSource(path=archive, text="sections"))["patient42142_study5"].report
    assert report.text.endswith("IMPRESSION: 1.  SMALL LEFT PLEURAL EFFUSION.")
    assert "4711" not in report.text
    read = {section.name: report.text[section.start : section.end] for section in find_sections(report.text)}
    assert read["findings"] == "There is a small left pleural effusion,\nwithout pneumothorax."


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("findings", {"pneumonia": Certainty.UNCERTAIN}),
        ("impression", {"pleural effusion": Certainty.PRESENT}),
        (None, {}),
    ],
)
def test_the_labels_of_another_text(which, expected, archive):
    assert _studies(CheXpertPlusSource(path=archive, labels=which))["patient42142_study5"].labels == expected


def test_missing_and_contradictory_labels(archive):
    labels = archive / "chexbert_labels/report_fixed.json"
    labels.write_text(
        labels.read_text() + replica.labels("train/patient42142/study5/view1_frontal.jpg", Edema=1.0) + "\n"
    )
    source = CheXpertPlusSource(path=archive)
    (fault,) = (
        item for item in source.load(source.units()[0]) if isinstance(item, StudyFault)
    )  # the other view's row is whole
    assert fault.message.endswith("line 2: the image has several lines of different labels")
    labels.unlink()
    with pytest.raises(DataError, match="set labels: null"):
        source.units()


def test_dicom_files_instead_of_pictures(archive):
    pytest.importorskip("pydicom", reason="needs the extra vlp[dicom]")
    write_dicom(archive / "DICOM/train/patient42142/study2/view1_frontal.dcm", view="PA")
    study = _studies(CheXpertPlusSource(path=archive, image_form="dicom"))["patient42142_study2"]
    assert study.images[0].path.suffix == ".dcm"
    assert study.images[0].view == "AP"  # the table is asked first
