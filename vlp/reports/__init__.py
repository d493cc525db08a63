"""Prose to statements: what a report says, sentence by sentence, without a model (see `read` and `label`)."""

from vlp.reports.findings import sentence_from_label, sentence_text
from vlp.reports.labels import label, resolve
from vlp.reports.reader import read

__all__ = ["label", "read", "resolve", "sentence_from_label", "sentence_text"]
