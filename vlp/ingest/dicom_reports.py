"""Reports that are DICOM objects themselves: the text of a structured report (SR), in the order it is written."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydicom.uid import (
    BasicTextSRStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
)

from vlp.ingest.dicom_file import DicomFile, Header

REPORT_CLASSES = frozenset(
    {BasicTextSRStorage, EnhancedSRStorage, ComprehensiveSRStorage, Comprehensive3DSRStorage, ExtensibleSRStorage}
)
"""Classes that radiologists' reports come in; dose reports, key image notes and CAD results are others."""
_CONTEXT = frozenset({"HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES"})
"""Who observed, how it was acquired, in which language: not what was found, and full of names."""
_MAX_DEPTH = 32


def is_report(file: DicomFile) -> bool:
    """Whether the object is of a class that reports come in."""
    return file.sop_class in REPORT_CLASSES


def report_text(file: DicomFile) -> str:
    """The headings, texts, codes and measurements of a structured report as "HEADING: text" lines, "" if empty.

    Names, dates and references, which a report also has as items, are not among them.
    """
    return "\n".join(_lines(file.header.items("ContentSequence"), section="", depth=0)).strip()


def _lines(items: Sequence[Header], *, section: str, depth: int) -> Iterator[str]:
    """The lines of some items; the first of a section carries its heading, those outside of one their own names."""
    heading = section
    for item in items:
        if depth > _MAX_DEPTH or item.text("RelationshipType").upper() in _CONTEXT:
            continue
        name = _meaning(item, "ConceptNameCodeSequence")
        text = _value(item, name)
        if text:
            title = heading if section else name
            yield f"{title.upper()}: {text}" if title else text
            heading = ""
        inner = name if item.text("ValueType").upper() == "CONTAINER" else ""
        yield from _lines(item.items("ContentSequence"), section=inner, depth=depth + 1)


def _value(item: Header, name: str) -> str:
    match item.text("ValueType").upper():
        case "TEXT":
            return item.prose("TextValue")
        case "CODE":
            return _meaning(item, "ConceptCodeSequence")
        case "NUM":
            measured = next(iter(item.items("MeasuredValueSequence")), None)
            if measured is None:
                return ""
            unit = next((one.text("CodeValue") for one in measured.items("MeasurementUnitsCodeSequence")), "")
            return f"{name} {measured.text('NumericValue')} {unit}".strip()
    return ""


def _meaning(item: Header, keyword: str) -> str:
    return next((code.text("CodeMeaning") for code in item.items(keyword)), "")


def latest(reports: Sequence[tuple[Path, DicomFile]]) -> DicomFile | None:
    """Of a study's reports the one that counts: complete before partial, verified before not, then the latest.

    An addendum that replaces the report is later and wins; equal ones are decided by the name of the file.
    """
    if not reports:
        return None

    def rank(report: tuple[Path, DicomFile]) -> tuple[bool, bool, str, str, str]:
        path, file = report
        header = file.header
        return (
            header.text("CompletionFlag").upper() != "PARTIAL",
            header.text("VerificationFlag").upper() == "VERIFIED",
            header.text("ContentDate"),
            header.text("ContentTime"),
            path.as_posix(),
        )

    return max(reports, key=rank)[1]
