import pytest

from tests.ingest.archives.replicas.nih import write_image
from tests.ingest.archives.replicas.rsna import write_dicom
from tests.ingest.real_data import real_data
from vlp.ingest.archives.headers import header_person


def test_a_header_names_a_person_with_an_age_that_lacks_its_unit(tmp_path):
    write_dicom(tmp_path / "a.dcm", uid="1.2.3", patient="p", seed=1)
    person = header_person(tmp_path / "a.dcm")
    assert (person.id, person.age, person.sex) == ("p", 58.0, "F")


def test_other_files_name_nobody(tmp_path):
    write_image(tmp_path / "a.png", seed=1)
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "empty.dcm").write_bytes(b"")
    for name in ("a.png", "cut.dcm", "empty.dcm", "absent.dcm"):
        assert header_person(tmp_path / name) is None
    assert header_person(None) is None


@pytest.mark.real_data
def test_real_headers_name_somebody_or_nobody_in_peace():
    files = sorted(real_data("dicom").glob("*.dcm"))
    assert len(files) == 10
    persons = [header_person(path) for path in files]
    assert all(person is None or person.age is None or 0 <= person.age <= 120 for person in persons)
    assert sum(person is not None for person in persons) >= 8
