import zipfile

import pytest

from tests.contracts.miniature import write_csv
from tests.ingest.archives.replicas import mimic_cxr as replica
from vlp.errors import DataError
from vlp.ingest.archives.mimic_cxr import MimicCxrSource, view_of
from vlp.ingest.source import StudyFault
from vlp.records import Certainty
from vlp.reports import read


@pytest.fixture
def archive(tmp_path):
    replica.build(tmp_path)
    return tmp_path


def _load(source):
    return [item for unit in source.units() for item in source.load(unit)]


def _studies(source):
    return {item.study.id: item.study for item in _load(source) if not isinstance(item, StudyFault)}


def _faults(source):
    return [item.message for item in _load(source) if isinstance(item, StudyFault)]


def test_a_study_has_its_images_views_labels_and_report_as_written(archive):
    study = _studies(MimicCxrSource(path=archive))["50414267"]
    assert [(image.id, image.view) for image in study.images] == [
        (replica.IMAGES[0][2], "PA"),
        (replica.IMAGES[1][2], "lateral"),
    ]
    assert study.report.text == replica.FINAL
    assert study.labels == {
        "pleural effusion": Certainty.PRESENT,
        "pneumothorax": Certainty.ABSENT,
        "pneumonia": Certainty.UNCERTAIN,
    }
    assert (study.person.id, study.split, study.source) == ("10000032", "train", "mimic-cxr")
    assert "PhysioNet" in study.license


def test_wet_reads_and_addenda_stay_in_the_report_and_are_read(archive):
    study = _studies(MimicCxrSource(path=archive))["53189527"]
    assert study.report.text == replica.WET_READ
    assert any(sentence.finding == "support device" for sentence in read(study.report.text))


def test_date_and_time_order_a_persons_studies(archive):
    studies = _studies(MimicCxrSource(path=archive))
    # 80556.875 is 8:05:56, before 16:55 of the same day, though it is written with a digit less.
    assert list(studies)[:3] == ["50414267", "53911762", "53189527"]
    assert studies["53189527"].earlier == ("50414267", "53911762")
    assert studies["50414267"].earlier == ()


def test_blank_and_missing_reports_are_no_reports(archive):
    studies = _studies(MimicCxrSource(path=archive))
    assert studies["53911762"].report is None
    assert studies["57375967"].report is None
    assert studies["57375967"].labels == {"no finding": Certainty.PRESENT}
    assert studies["57375967"].split == "val"


def test_a_blank_view_is_taken_from_its_code_or_stays_unknown(archive):
    studies = _studies(MimicCxrSource(path=archive))
    assert studies["53189527"].images[0].view == "AP"
    assert studies["57375967"].images[0].view == "other"
    assert [view_of(*said) for said in (("", ""), ("AP LLD", "antero-posterior"), ("ll", "x"), (" ", "Lateral"))] == [
        None,
        "other",
        "lateral",
        "lateral",
    ]


def test_radiologists_labels_replace_the_labelers(archive):
    study = _studies(MimicCxrSource(path=archive))["51029426"]
    assert study.labels["lung opacity"] is Certainty.PRESENT
    assert "edema" not in study.labels
    assert "fracture" not in study.labels
    assert study.person.groups["labels"] == "radiologists"
    assert study.split == "test"
    program = _studies(MimicCxrSource(path=archive, test_labels=False))["51029426"]
    assert program.labels == {"edema": Certainty.UNCERTAIN}
    assert program.person.groups["labels"] == "labeler"


def test_negbio_or_no_labels(archive):
    assert set(_studies(MimicCxrSource(path=archive, labels="negbio"))["50414267"].labels) == {
        "pleural effusion",
        "pneumothorax",
        "pneumonia",
    }
    assert not _studies(MimicCxrSource(path=archive, labels="negbio"))["53189527"].labels
    assert not _studies(MimicCxrSource(path=archive, labels=None, test_labels=False))["50414267"].labels


def test_images_without_split_are_faults_unless_splits_are_made_anew(archive):
    assert any("does not say train, validate or test" in message for message in _faults(MimicCxrSource(path=archive)))
    free = _studies(MimicCxrSource(path=archive, official_splits=False))
    assert "51029428" in free
    assert all(study.split is None for study in free.values())


def test_part_of_the_archive(archive, caplog):
    with caplog.at_level("INFO", logger="vlp"):
        studies = _studies(MimicCxrSource(path=archive, folders=("p10",)))
    assert {study.person.id for study in studies.values()} == {"10000032", "10000764"}
    with pytest.raises(DataError, match="`folders` leave all out"):
        MimicCxrSource(path=archive, folders=("p19",)).units()


def test_age_and_sex_come_from_mimic_iv(archive):
    write_csv(
        archive / "patients.csv.gz",
        [
            {"subject_id": "10000032", "gender": "F", "anchor_age": 52, "anchor_year": 2178, "dod": ""},
            {"subject_id": "10000764", "gender": "M", "anchor_age": "", "anchor_year": 2132, "dod": ""},
        ],
    )
    studies = _studies(MimicCxrSource(path=archive, patients=archive / "patients.csv.gz"))
    assert (studies["50414267"].person.sex, studies["50414267"].person.age) == ("F", 54.0)
    assert (studies["57375967"].person.sex, studies["57375967"].person.age) == ("M", None)
    assert (studies["51029426"].person.sex, studies["51029426"].person.age) == (None, None)


def test_reports_from_another_folder_a_zip_and_a_table_of_sections(archive, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("reports")
    name = replica.report_name("10000032", "50414267")
    (elsewhere / name).parent.mkdir(parents=True)
    (elsewhere / name).write_text("IMPRESSION: folder")
    with zipfile.ZipFile(elsewhere / "r.zip", "w") as packed:
        packed.writestr(name, "IMPRESSION: zip")
    write_csv(
        elsewhere / "mimic_cxr_sectioned.csv",
        [
            {
                "study": "s50414267",
                "impression": "Zip,\nno.",
                "findings": "",
                "last_paragraph": "x",
                "comparison": "___",
            },
            {"study": "s53189527", "impression": "", "findings": "", "last_paragraph": "Last.", "comparison": "y"},
        ],
    )

    def texts(where):
        studies = _studies(MimicCxrSource(path=archive, reports=elsewhere / where))
        return {key: study.report.text for key, study in studies.items() if study.report}

    assert texts("") == {"50414267": "IMPRESSION: folder"}
    assert texts("r.zip") == {"50414267": "IMPRESSION: zip"}
    assert texts("mimic_cxr_sectioned.csv") == {
        "50414267": "COMPARISON: ___\nIMPRESSION: Zip,\nno.",
        "53189527": "Last.",
    }


def test_reports_that_are_not_there_or_broken_stop_the_archive(archive):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        MimicCxrSource(path=archive, reports=archive / "none").units()
    (archive / "r.zip").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="not a whole ZIP archive"):
        MimicCxrSource(path=archive, reports=archive / "r.zip").units()


def test_a_report_that_is_no_text_is_a_fault(archive):
    (archive / replica.report_name("10000764", "57375967")).write_bytes(b"\xff\xfe caf\xe9")
    faults = _faults(MimicCxrSource(path=archive))
    assert any(message.endswith("line 6: the report is not UTF-8 text") for message in faults)


def test_doubtful_rows_are_faults_of_their_own(archive):
    table = archive / "mimic-cxr-2.0.0-metadata.csv"
    first = {"dicom_id": "a-1", "subject_id": "10000032", "study_id": "5"}
    first |= {"ViewPosition": "PA", "StudyDate": "", "StudyTime": ""}
    write_csv(
        table,
        [
            first,
            first,
            first | {"dicom_id": "../x"},
            first | {"study_id": "6", "dicom_id": "b"},
            first | {"study_id": "6", "subject_id": "10000033", "dicom_id": "c"},
        ],
    )
    faults = _faults(MimicCxrSource(path=archive, official_splits=False))
    assert sorted(message.removeprefix(f"{table}: ") for message in faults) == [
        "line 2: the image is not there",
        "line 3: this image is listed twice",
        "line 4: the ids are not those of MIMIC-CXR (two numbers and the name of an image)",
        "line 5: this study is listed under several patients",
        "line 6: this study is listed under several patients",
    ]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("split", "official_splits: false"),
        ("chexpert", "labels: null"),
        ("metadata", "is this the folder of MIMIC-CXR"),
    ],
)
def test_a_missing_table_is_named_with_what_to_do(archive, name, hint):
    (archive / f"mimic-cxr-2.0.0-{name}.csv.gz").unlink()
    with pytest.raises(DataError, match=hint):
        MimicCxrSource(path=archive).units()
