"""What the DICOM headers of an archive know of a person that its tables do not."""

from pathlib import Path

from vlp.errors import DataError
from vlp.ingest.archives.rows import years
from vlp.records import Person


def header_person(path: Path | None) -> Person | None:
    """The person of a DICOM file's header, by PatientID; None for any other file and for one that cannot be read.

    Why it cannot be read is for the one to say who reads its pixels.  An age may lack its unit ("58"), as in the
    challenges of RSNA and SIIM.
    """
    if path is None:
        return None
    try:
        from vlp.ingest.dicom_file import quiet
        from vlp.ingest.dicom_header import read_facts
        from vlp.ingest.dicom_tree import read_header
    except ModuleNotFoundError as error:
        if error.name != "pydicom":
            raise
        return None
    with quiet():
        file = read_header(path)
        if file is None or isinstance(file, DataError):
            return None
        facts = read_facts(file)
        return Person(id=facts.patient_id, age=years(file.header.text("PatientAge")), sex=facts.sex)
