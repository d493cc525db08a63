"""What the MeSH codes of Open-I ("Opacity/lung/base/left") say in the words of our vocabulary."""

from collections.abc import Mapping, Sequence
from typing import Literal

from vlp.records import Certainty
from vlp.reports.findings import LABEL_SETS, NO_FINDING, canonical

NOT_CODED = "no indexing"
_FINDINGS: Mapping[str, tuple[str, ...]] = {
    "pulmonary atelectasis": ("atelectasis",),
    "pulmonary emphysema": ("emphysema",),
    "bullous emphysema": ("emphysema",),
    "hernia, hiatal": ("hernia",),
    "hernia, diaphragmatic": ("hernia",),
    "hydropneumothorax": ("pneumothorax", "pleural effusion"),
    "hemothorax": ("pleural effusion",),
    "thickening/pleura": ("pleural thickening",),
    "lung/hyperdistention": ("hyperinflation",),
    "aorta/tortuous": ("tortuous aorta",),
    "aorta, thoracic/tortuous": ("tortuous aorta",),
    "calcinosis/aorta": ("aortic calcification",),
    "calcinosis/aorta, thoracic": ("aortic calcification",),
    "fractures, bone": ("fracture",),
    "catheters, indwelling": ("support device",),
    "tube, inserted": ("support device",),
    "medical device": ("support device",),
    "implanted medical device": ("support device",),
    "opacity": ("lung opacity",),
    "density": ("lung opacity",),
}
"""Code, or code with one of its qualifiers, in lower case -> findings."""
_NOT_FINDINGS = {
    "opacity/ribs", "opacity/mediastinum", "opacity/thorax", "density/ribs", "density/mediastinum", "density/thorax",
    "density/heart", "mass/breast", "mass/mediastinum", "granuloma/ribs",
    "granuloma/thoracic vertebrae", "cicatrix/breast", "cicatrix/pleura", "implanted medical device/humerus",
    "implanted medical device/shoulder",
}  # fmt: skip
"""Codes whose first qualifier takes them out of the lung."""
_OPEN = {"cardiac shadow/enlarged": "cardiomegaly", "costophrenic angle/blunted": "pleural effusion"}
"""Codes that neither state a finding nor leave it absent."""


def findings_of(code: str) -> tuple[str, ...]:
    """The findings that one code states; none for a code of something else."""
    name, *qualified = _forms(code)
    if qualified and qualified[0] in _NOT_FINDINGS:
        return ()
    for form in (*qualified, name):
        if form in _FINDINGS:
            return _FINDINGS[form]
    known = canonical(name)
    return (known,) if known else ()


def labels_of(codes: Sequence[str], *, unnamed: Literal["absent", "unmentioned"]) -> dict[str, Certainty]:
    """The labels of a report with these codes; none of a report that was not coded.

    Args:
        codes: The report's codes.
        unnamed: What the 14 findings of ChestX-ray14 and "no finding" are where no code states them.  The coders
            were to code everything abnormal, so "absent" is what the labels made from these codes elsewhere say.
    """
    forms = [_forms(code) for code in codes if code.strip()]
    if not forms or any(name == NOT_CODED for name, *_ in forms):
        return {}
    labels: dict[str, Certainty] = {}
    if unnamed == "absent":
        labels = dict.fromkeys((*LABEL_SETS["nih14"].values(), NO_FINDING), Certainty.ABSENT)
    for form in (form for each in forms for form in each if form in _OPEN):
        labels.pop(_OPEN[form], None)
    labels |= {finding: Certainty.PRESENT for code in codes for finding in findings_of(code)}
    return labels


def _forms(code: str) -> list[str]:
    """The code in lower case, alone and with each of its qualifiers."""
    name, *qualifiers = (" ".join(part.split()) for part in code.lower().split("/"))
    return [name, *(f"{name}/{qualifier}" for qualifier in qualifiers)]
