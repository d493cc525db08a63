"""What a language model is asked about a report, and the form its answer must have.

Change `VERSION` with every word of this file: answers are cached by it.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from vlp.records import Certainty
from vlp.reports.findings import VOCABULARY
from vlp.reports.locations import SEVERITIES, SIDES, ZONES

VERSION = "1"
NONE = "none"
"""What stands in the answer where a sentence names no side, zone or degree."""

_INSTRUCTIONS = f"""You read sentences of chest radiograph reports and list what each states about the present study.
For every finding of the list that a sentence speaks of, give one statement:
- sentence: the number of the sentence.
- quote: the words that state it, copied from that sentence exactly, letter by letter.
- finding: one of the listed names. Use the name that means what is written; leave out what none of them means.
- certainty: "present", "absent" (denied, resolved, normal) or "uncertain" (possible, may, cannot be excluded).
  "Probable", "likely" and "consistent with" are present. "Unchanged", "improved" and "worse" are present.
- side: {", ".join(SIDES)} or {NONE}; only what the sentence says, never what you infer.
- zone: {", ".join(ZONES)} or {NONE}.
- severity: {", ".join(SEVERITIES)} or {NONE}.
A finding in two places is two statements. History, indications, recommendations ("evaluate for", "history of",
"recommend CT to exclude") state nothing. A sentence that speaks of no listed finding gets no statement.
Findings: {", ".join(VOCABULARY)}."""


class Said(BaseModel):
    """One statement of an answer."""

    model_config = ConfigDict(strict=True, extra="ignore")
    sentence: int
    quote: str
    finding: str
    certainty: Literal["present", "absent", "uncertain"]
    side: str = NONE
    zone: str = NONE
    severity: str = NONE


class Answered(BaseModel):
    """An answer."""

    model_config = ConfigDict(strict=True, extra="ignore")
    statements: list[Said]


def messages(sentences: Sequence[str]) -> list[dict[str, str]]:
    """The conversation that asks about the sentences of one report, numbered from 0."""
    numbered = [{"sentence": number, "text": " ".join(text.split())} for number, text in enumerate(sentences)]
    return [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": json.dumps(numbered, ensure_ascii=False)},
    ]


def schema() -> Mapping[str, Any]:
    """The JSON schema of an answer, in the subset that servers can decode by."""
    fields: dict[str, Any] = {
        "sentence": {"type": "integer"},
        "quote": {"type": "string"},
        "finding": {"type": "string", "enum": list(VOCABULARY)},
        "certainty": {"type": "string", "enum": [certainty.value for certainty in Certainty]},
        "side": {"type": "string", "enum": [*SIDES, NONE]},
        "zone": {"type": "string", "enum": [*ZONES, NONE]},
        "severity": {"type": "string", "enum": [*SEVERITIES, NONE]},
    }
    statement = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"statements": {"type": "array", "items": statement}},
        "required": ["statements"],
        "additionalProperties": False,
    }
