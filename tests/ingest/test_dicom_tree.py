import os
import shutil

import pytest

from tests.ingest.dicom_writing import GREY, header, uid, write
from vlp.errors import DataError
from vlp.ingest.dicom_file import DicomFile
from vlp.ingest.dicom_tree import indices_of, list_files, read_header, scan, state_of, unit_of
from vlp.ingest.image_error import ImageError


@pytest.fixture(autouse=True)
def forget():
    list_files.cache_clear()
    scan.cache_clear()


def _scan(folder):
    return scan(folder, state_of(list_files(folder)))


def _names(folder, group):
    return [list_files(folder).names[index] for index in group]


def test_files_are_listed_by_name_and_folders_entered_once(tmp_path):
    for name in ("b/2", "a/1", "c", ".hidden", ".folder/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert list_files(tmp_path).names == ("a/1", "b/2", "c")
    with pytest.raises(DataError, match="no such folder"):
        list_files(tmp_path / "nowhere")


def test_patients_studies_and_images_join_files(tmp_path):
    study = uid.generate_uid()
    write(tmp_path / "1", header(PatientID="p1"))
    write(tmp_path / "2", header(PatientID="p2", StudyInstanceUID=study))
    write(tmp_path / "3", header(PatientID="p1"))
    write(tmp_path / "4", header(PatientID="p3", StudyInstanceUID=study))
    write(tmp_path / "5", header(PatientID="", without=("StudyInstanceUID", "SOPInstanceUID")))
    groups = [_names(tmp_path, group) for group in _scan(tmp_path).groups]
    assert groups == [["1", "3"], ["2", "4"], ["5"]]


def test_chains_of_files_are_one_group(tmp_path):
    studies = [uid.generate_uid() for _ in range(4)]
    for number in range(4):
        write(tmp_path / f"{number}a", header(PatientID=f"p{number}", StudyInstanceUID=studies[number]))
        write(tmp_path / f"{number}b", header(PatientID=f"p{(number + 1) % 4}", StudyInstanceUID=studies[number]))
    assert len(_scan(tmp_path).groups) == 1


def test_what_is_no_radiograph_is_counted_by_reason(tmp_path):
    write(tmp_path / "ct", header(SOPClassUID=uid.CTImageStorage, Modality="CT"))
    write(tmp_path / "pdf", header(SOPClassUID=uid.EncapsulatedPDFStorage, without=("PixelData",)))
    write(tmp_path / "hand", header(BodyPartExamined="HAND"))
    write(tmp_path / "DICOMDIR", header(SOPClassUID=uid.MediaStorageDirectoryStorage, without=("PixelData",)))
    write(tmp_path / "sr", header(SOPClassUID=uid.BasicTextSRStorage, without=("PixelData",)))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "zero").touch()
    found = _scan(tmp_path)
    assert found.left_out == {"wrong_modality": 1, "unsupported_object": 1, "not_chest": 1, "dicomdir": 1}
    assert found.num_other_files == 2
    assert sorted(name for group in found.groups for name in _names(tmp_path, group)) == ["ct", "hand", "pdf", "sr"]


def test_contradictions_in_headers_are_counted_without_values(tmp_path):
    odd = {"ViewPosition": "PA", "PatientOrientation": ["A", "F"], "PatientID": "secret"}
    for number in range(2):
        write(tmp_path / f"{number}", header(**odd))
    write(tmp_path / "2", header(ViewPosition="PA", PatientOrientation=["R", "F"]))
    write(tmp_path / "3", header(ViewPosition="PA", SOPClassUID=uid.CTImageStorage, SeriesDescription="LAT"))
    assert _scan(tmp_path).oddities == {
        "conflict:ViewPosition against PatientOrientation": 2,
        "orientation:mirrored": 1,
    }


def test_a_file_that_promises_dicom_and_is_none_stands_alone(tmp_path):
    write(tmp_path / "a.dcm", header())
    (tmp_path / "b.dcm").touch()
    (tmp_path / "c.DICOM").write_bytes(b"hello")
    assert [_names(tmp_path, group) for group in _scan(tmp_path).groups] == [["a.dcm"], ["b.dcm"], ["c.DICOM"]]


def test_copies_and_conflicts_are_counted(tmp_path):
    dataset = header()
    shutil.copy(write(tmp_path / "a", dataset), tmp_path / "b")
    write(tmp_path / "c", header(GREY[::-1], SOPInstanceUID=dataset.SOPInstanceUID))
    found = _scan(tmp_path)
    assert (found.num_copies, found.num_conflicts) == (1, 1)


def test_headers_are_read_or_their_fault_is_told(tmp_path):
    assert isinstance(read_header(write(tmp_path / "a", header())), DicomFile)
    (tmp_path / "b.dcm").touch()
    fault = read_header(tmp_path / "b.dcm")
    assert isinstance(fault, ImageError)
    assert fault.code == "empty_file"
    assert read_header(tmp_path / "gone").code == "unreadable_file"


def test_a_scan_is_kept_until_a_file_changes(tmp_path):
    write(tmp_path / "a", header())
    first = _scan(tmp_path)
    assert _scan(tmp_path) is first
    write(tmp_path / "a", header(GREY[:-1]))
    assert _scan(tmp_path) is not first


def test_a_unit_is_worth_nothing_once_files_came_or_went(tmp_path):
    write(tmp_path / "a", header())
    listing = list_files(tmp_path)
    unit = unit_of(listing, (0,))
    assert indices_of(listing, unit) == [0]
    write(tmp_path / "0", header())
    list_files.cache_clear()
    with pytest.raises(DataError, match="added or removed"):
        indices_of(list_files(tmp_path), unit)
