"""Prose to statements: what a report says, sentence by sentence, without a model (see `read` and `label`).

Other readers, among them language models, stand behind the same interface in `vlp.reports.readers`.
"""

from vlp.reports.findings import sentence_from_label, sentence_text
from vlp.reports.labels import label, resolve
from vlp.reports.language import detect_language
from vlp.reports.reader import Reading, read, read_report

__all__ = [
    "Reading",
    "detect_language",
    "label",
    "read",
    "read_report",
    "resolve",
    "sentence_from_label",
    "sentence_text",
]
