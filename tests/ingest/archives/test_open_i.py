import tarfile
from collections import Counter

import pytest

from tests.ingest.archives.replicas import open_i as replica
from tests.ingest.archives.replicas import open_i_kaggle, open_i_r2gen
from tests.ingest.archives.replicas.rsna import write_dicom
from tests.ingest.real_data import real_data
from vlp.errors import DataError
from vlp.ingest.archives.open_i import OpenISource
from vlp.ingest.source import StudyFault
from vlp.records import Certainty


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def _views(study):
    return [image.view for image in study.images]


def test_a_report_keeps_its_words_its_entities_and_its_removed_names(tmp_path):
    replica.build(tmp_path)
    study = _studies(OpenISource(path=tmp_path))["CXR90041"]
    assert study.report.text == (
        "INDICATION: XXXX-year-old XXXX with cough & fever.\nCOMPARISON: None.\n"
        "FINDINGS: Heart size < normal limits. Small left effusion, drained by Zweistein.\nIMPRESSION: Small effusion."
    )
    assert (study.person.id, study.license, study.split) == ("CXR90041", "CC BY-NC-ND 4.0", None)
    present = {name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT}
    assert present == {"pleural effusion", "lung opacity"}
    assert study.labels["no finding"] is Certainty.ABSENT


def test_empty_sections_leave_no_heading_and_an_empty_report_none_at_all(tmp_path):
    replica.build(tmp_path)
    studies = _studies(OpenISource(path=tmp_path))
    assert studies["CXR90042"].report.text == "INDICATION: Quillfeather syndrome\nIMPRESSION: Normal chest."
    assert studies["CXR90043"].report is None
    assert studies["CXR90043"].labels == {}


def test_the_table_of_views_wins_over_the_order(tmp_path):
    replica.build(tmp_path)
    studies = _studies(OpenISource(path=tmp_path))
    assert _views(studies["CXR90041"]) == ["lateral", "PA"]
    # Not in the table: the first of two is frontal, AP by its caption; one alone is anything.
    assert _views(studies["CXR90042"]) == ["AP", "lateral"]
    assert _views(studies["CXR90043"]) == ["other"]
    assert _views(_studies(OpenISource(path=tmp_path, unstated_views="other"))["CXR90042"]) == ["other", "other"]


def test_a_dicom_header_is_believed_before_the_order(tmp_path):
    replica.build(tmp_path)
    for number, (name, _) in enumerate(replica.IMAGES[90042]):
        (tmp_path / "NLMCXR_png" / f"{name}.png").unlink()
        path = tmp_path / "NLMCXR_dcm" / "90042" / f"{name.removeprefix('CXR')}.dcm"
        write_dicom(path, uid=f"1.2.{number}", patient="p", seed=number)
    study = _studies(OpenISource(path=tmp_path))["CXR90042"]
    assert [(image.id, image.view) for image in study.images] == [
        ("CXR90042_IM-0652-1001", "PA"),
        ("CXR90042_IM-0652-2001", "PA"),
    ]


def test_captions_of_their_own_tell_views_apart(tmp_path):
    replica.build(tmp_path)
    (tmp_path / "indiana_projections.csv").unlink()
    path = tmp_path / "ecgen-radiology" / "90042.xml"
    text = path.read_text().replace("PORTABLE AP CHEST", "Lateral chest", 1).replace("PORTABLE AP CHEST", "PA chest")
    path.write_text(text)
    assert _views(_studies(OpenISource(path=tmp_path))["CXR90042"]) == ["lateral", "PA"]


def test_it_is_said_when_views_are_guessed(tmp_path, caplog):
    replica.build(tmp_path)
    (tmp_path / "indiana_projections.csv").unlink()
    OpenISource(path=tmp_path).units()
    assert "told by their order" in caplog.text


def test_codes_become_labels_as_asked(tmp_path):
    replica.build(tmp_path)
    assert "support device" not in _studies(OpenISource(path=tmp_path))["CXR90041"].labels
    automatic = _studies(OpenISource(path=tmp_path, codes="all", unnamed="unmentioned"))["CXR90041"].labels
    assert automatic == {"pleural effusion": Certainty.PRESENT, "lung opacity": Certainty.PRESENT}
    assert _studies(OpenISource(path=tmp_path, codes="none"))["CXR90041"].labels == {}


def test_bombs_and_broken_files_are_faults_of_their_report(tmp_path):
    replica.build(tmp_path)
    faults = [item for item in _load(OpenISource(path=tmp_path)) if isinstance(item, StudyFault)]
    messages = "\n".join(fault.message for fault in faults if fault.code == "bad_row")
    assert "report 6 of 7: has a document type" in messages
    assert "report 7 of 7: line" in messages
    assert "90046" not in messages


def test_images_that_were_left_behind(tmp_path):
    replica.build(tmp_path)
    part = OpenISource(path=tmp_path, absent_images="leave_out")
    study = _studies(part)["CXR90045"]
    assert [image.id for image in study.images] == ["CXR90045_IM-0009-1001"]
    (tmp_path / "NLMCXR_png" / "CXR90045_IM-0009-1001.png").unlink()
    codes = Counter(item.code for item in _load(part) if isinstance(item, StudyFault))
    assert codes == {"excluded_no_image": 1, "excluded_absent": 1, "bad_row": 2}


def test_kaggles_copy_says_the_same(tmp_path):
    open_i_kaggle.build(tmp_path)
    studies = _studies(OpenISource(path=tmp_path))
    assert studies["CXR80051"].report.text == (
        'INDICATION: Grimsdyke, "short\nof breath"\nFINDINGS: Left effusion.\nIMPRESSION: Effusion.'
    )
    assert _views(studies["CXR80051"]) == ["PA", "lateral"]
    assert studies["CXR80051"].labels["aortic calcification"] is Certainty.PRESENT
    # A spreadsheet spoiled the indication.
    assert studies["CXR80052"].report.text == "COMPARISON: None\nIMPRESSION: No acute disease, says Wimbleby."
    assert _views(studies["CXR80052"]) == ["AP"]


def test_r2gens_copy_brings_its_split(tmp_path):
    open_i_r2gen.build(tmp_path)
    studies = _studies(OpenISource(path=tmp_path))
    assert {study.id: study.split for study in studies.values()} == {
        "CXR70061_IM-0942": "train",
        "CXR70063_IM-0944": "val",
        "CXR70064_IM-0945": "test",
    }
    study = studies["CXR70061_IM-0942"]
    assert (study.person.id, study.report.text) == ("CXR70061", "heart size is normal . snodgrass .")
    assert [image.id for image in study.images] == ["CXR70061_IM-0942/0", "CXR70061_IM-0942/1"]
    assert _views(study) == ["PA", "lateral"]


def test_an_archive_without_images_or_of_two_layouts_says_so(tmp_path):
    replica.build(tmp_path)
    (tmp_path / "annotation.json").write_text("{}")
    with pytest.raises(DataError, match="several layouts"):
        OpenISource(path=tmp_path).units()
    assert OpenISource(path=tmp_path, layout="xml").units()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        OpenISource(path=tmp_path, layout="xml", images=tmp_path / "none").units()


@pytest.mark.real_data
def test_the_real_images_come_with_their_reports(tmp_path):
    with tarfile.open(real_data("native", "openi", "NLMCXR_reports_subset.tgz")) as archive:
        archive.extractall(tmp_path, filter="data")
    source = OpenISource(
        path=tmp_path,
        images=real_data("images", "iu"),
        projections=real_data("native", "openi", "indiana_projections.csv.gz"),
        absent_images="leave_out",
    )
    assert len(source.units()) == 3184
    items = _load(source)
    studies = [item.study for item in items if not isinstance(item, StudyFault)]
    faults = Counter(item.code for item in items if isinstance(item, StudyFault))
    # The README: 11 images (5 frontal) of 6 reports; 104 reports were found to name none.
    assert Counter(view for study in studies for view in _views(study)) == {"PA": 5, "lateral": 6}
    assert len(studies) == 6
    assert faults == {"excluded_no_image": 104, "excluded_absent": 3184 - 104 - 6}
