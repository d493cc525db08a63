"""What is made of a prompt before a model answers it: what it states, and what is wrong with it.

A model gives a number for any text.  `understand` says what the text is first: empty, too long, in a script or language
the model never read, without a known word, at odds with itself, about a knee.  Every remark has a code that stays the
same from version to version (docs/reference/prompts.md).  Nothing is refused by an exception until a caller says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from vlp.errors import DataError
from vlp.prompts import lexicon
from vlp.records import Certainty
from vlp.reports.findings import NO_FINDING
from vlp.reports.language import ENGLISH, detect_language, is_foreign
from vlp.reports.locations import find_places, parts
from vlp.reports.phrases import find_words
from vlp.reports.reader import LeftOut, Statement, find_statements, read_report
from vlp.reports.sections import find_sections
from vlp.reports.sentences import find_sentences

Code = Literal[
    "empty_prompt",
    "prompt_too_long",
    "other_script",
    "out_of_vocabulary",
    "contradiction",
    "impossible_anatomy",
    "not_english",
    "not_now",
    "negated",
    "uncertain",
    "hidden_characters",
    "rewritten_characters",
]
"""What a note is about; the meaning of a code never changes."""
Severity = Literal["refuse", "warning"]
Side = Literal["left", "right", "both"]

MAX_CHARACTERS = 4000
"""Longer texts are refused before anything else looks at them."""
_MOSTLY = 0.5
"""Share of letters in another script from which a prompt is refused."""
_MANY_UNKNOWN = 0.3
"""Share of unknown words from which they are remarked on."""
_SHOWN = 3
"""How many words a message quotes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One remark on a prompt."""

    code: Code
    message: str
    """One line for a person."""
    severity: Severity
    """"refuse": the prompt must not be answered; "warning": the answer needs the remark beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A prompt as it is asked, and what it was understood to say."""

    text: str
    """What the model should be given: cleaned, otherwise as written."""
    negated: bool
    """Whether it says that something is not there."""
    certainty: Certainty | None
    """What it says of all its findings (or of what it speaks of); None where that differs, or it says nothing."""
    findings: tuple[str, ...]
    """Canonical names of what it speaks of, in order."""
    side: Side | None
    """The patient's side it names; None: none."""
    notes: tuple[Note, ...]

    def refuse(self) -> None:
        """Returns if the prompt can be answered.

        Raises:
            DataError: with the first reason why it cannot.
        """
        for note in self.notes:
            if note.severity == "refuse":
                raise DataError(f"{note.code}: {note.message}")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "text": self.text,
            "negated": self.negated,
            "certainty": None if self.certainty is None else str(self.certainty),
            "findings": list(self.findings),
            "side": self.side,
            "notes": [{"code": note.code, "message": note.message, "severity": note.severity} for note in self.notes],
        }


def understand(
    text: str, *, tokenizer_count: Callable[[str], int] | None = None, limit: int | None = None
) -> Understood:
    """What `text` says and what is wrong with it; any string can be understood.

    Args:
        text: a prompt as a person wrote it.
        tokenizer_count: how many tokens the model makes of a text; None: length is judged by characters alone.
        limit: how many tokens the model reads; goes with `tokenizer_count`.
    """
    assert (tokenizer_count is None) == (limit is None), "a count and its limit go together"
    shown = text[: MAX_CHARACTERS + 1]
    clean = lexicon.cleaned(shown)
    refusal = _refusal(clean.text, len(text), tokenizer_count, limit)
    if refusal is not None:
        return Understood(
            text=clean.text[:MAX_CHARACTERS],
            negated=False,
            certainty=None,
            findings=(),
            side=None,
            notes=(refusal,),
        )
    language = _language(clean.text)
    statements = () if is_foreign(language) else statements_in(clean.text)
    certainty = None if is_foreign(language) else _certainty(statements, clean.text)
    said = _Said(
        text=clean.text,
        statements=statements,
        certainties=frozenset({one.certainty for one in statements} or ({certainty} if certainty else ())),
        language=language,
    )
    return Understood(
        text=clean.text,
        negated=Certainty.ABSENT in said.certainties,
        certainty=certainty,
        findings=tuple(dict.fromkeys(one.finding for one in statements)),
        side=_side(statements, clean.text),
        notes=(*_of_characters(clean), *_of_words(said), *_of_meaning(said)),
    )


def _language(text: str) -> str:
    """The language of a prompt; words that English reports use too ("absence", "pleural") make none foreign."""
    language = detect_language(text)
    unknown, telling = lexicon.unknown(text)
    return language if len(unknown) > _MANY_UNKNOWN * telling else ENGLISH


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the remarks on a prompt are made from."""

    text: str
    statements: Sequence[Statement]
    certainties: frozenset[Certainty]
    language: str


def _refusal(
    text: str, characters: int, tokenizer_count: Callable[[str], int] | None, limit: int | None
) -> Note | None:
    """Why a prompt cannot be answered at all."""
    if characters > MAX_CHARACTERS:
        message = f"{characters} characters, the most is {MAX_CHARACTERS}; ask for one thing at a time"
        return Note(code="prompt_too_long", message=message, severity="refuse")
    if not any(letter.isalnum() for letter in text):
        message = "nothing to look for; write a sentence, e.g. 'There is pleural effusion.'"
        return Note(code="empty_prompt", message=message, severity="refuse")
    foreign, letters = lexicon.other_script(text)
    if foreign > _MOSTLY * letters:
        message = f"{foreign} of {letters} letters are not Latin, and the model reads English; write it in English"
        return Note(code="other_script", message=message, severity="refuse")
    if tokenizer_count is not None and limit is not None and (count := tokenizer_count(text)) > limit:
        message = f"{count} tokens, the model reads at most {limit}; shorten it"
        return Note(code="prompt_too_long", message=message, severity="refuse")
    return None


def _of_characters(clean: lexicon.Cleaned) -> list[Note]:
    notes = []
    if clean.hidden:
        message = f"{clean.hidden} invisible or control characters were taken out"
        notes.append(Note(code="hidden_characters", message=message, severity="warning"))
    if clean.rewritten:
        message = "special forms of letters were written plainly"
        notes.append(Note(code="rewritten_characters", message=message, severity="warning"))
    foreign, letters = lexicon.other_script(clean.text)
    if foreign:
        message = f"{foreign} of {letters} letters are not Latin, and the model reads English"
        notes.append(Note(code="other_script", message=message, severity="warning"))
    return notes


def _of_words(said: _Said) -> list[Note]:
    notes = []
    message: str | None
    if is_foreign(said.language):
        message = f"this reads like {said.language!r}, and the model reads English ({ENGLISH!r}); write it in English"
        notes.append(Note(code="not_english", message=message, severity="warning"))
    elif (message := _unknown_words(said.text)) is not None:
        notes.append(Note(code="out_of_vocabulary", message=message, severity="warning"))
    if places := lexicon.elsewhere(said.text):
        message = f"a chest radiograph does not show this: {_quoted(places)}"
        notes.append(Note(code="impossible_anatomy", message=message, severity="warning"))
    return notes


def _unknown_words(text: str) -> str | None:
    """What to say of words that chest reports do not have; None where there are few or none."""
    unknown, telling = lexicon.unknown(text)
    if telling and len(unknown) <= _MANY_UNKNOWN * telling:
        return None
    meant = next(filter(None, map(lexicon.meant, unknown[:_SHOWN])), None)
    hint = f"; did you mean {meant!r}?" if meant else ""
    if len(unknown) == telling:
        return f"no word in it is known from chest reports; the answer means nothing{hint}"
    return f"{len(unknown)} of {telling} words are not known from chest reports: {_quoted(unknown)}{hint}"


def _of_meaning(said: _Said) -> list[Note]:
    notes = []
    if reason := contradiction(said.text, said.statements):
        notes.append(Note(code="contradiction", message=reason, severity="warning"))
    if not is_foreign(said.language) and LeftOut.ELSEWHEN in read_report(said.text, language=ENGLISH).left_out:
        message = "it speaks of the past or of something to be looked for, not of what is there now"
        notes.append(Note(code="not_now", message=message, severity="warning"))
    if Certainty.ABSENT in said.certainties:
        names = [one.finding for one in said.statements if one.certainty is Certainty.ABSENT]
        message = f"read as a denial{_named(names)}: high values say that it is not there"
        notes.append(Note(code="negated", message=message, severity="warning"))
    if Certainty.UNCERTAIN in said.certainties:
        names = [one.finding for one in said.statements if one.certainty is Certainty.UNCERTAIN]
        notes.append(Note(code="uncertain", message=f"read as leaving it open{_named(names)}", severity="warning"))
    return notes


def statements_in(text: str) -> tuple[Statement, ...]:
    """What an English text states of findings, sentence by sentence, with everything that contradicts itself."""
    spans = find_sentences(text, find_sections(text))
    return tuple(one for span in spans for one in find_statements(text[span.start : span.end])[0])


def contradiction(text: str, statements: Sequence[Statement]) -> str | None:
    """Why a text contradicts itself, in one line; None where it does not.

    Args:
        text: one prompt or sentence.
        statements: what `vlp.reports` reads in it.
    """
    if pair := lexicon.clash(text):
        return f"{pair[0]!r} and {pair[1]!r} exclude each other"
    denied = {(one.finding, one.location) for one in statements if one.certainty is Certainty.ABSENT}
    for one in statements:
        if one.certainty is Certainty.PRESENT and {(one.finding, None), (one.finding, one.location)} & denied:
            return f"it affirms and denies {one.finding}"
    if _dangles(text):
        return "a denial is followed by nothing that it denies, or by another denial"
    return None


_NOTHING = frozenset({"and", "but", "or", "there"})
_DENYING = frozenset({"no", "not", "without"})


def _dangles(text: str) -> bool:
    """Whether a denial stands before no thing: "there is no and there is", "no no effusion", "not without"."""
    followed = pairwise([*lexicon.words(text), "and"])
    return any(
        (first in _DENYING and second in _DENYING) or (first in _DENYING - {"not"} and second in _NOTHING)
        for first, second in followed
    )


def _certainty(statements: Sequence[Statement], text: str) -> Certainty | None:
    found = {one.certainty for one in statements}
    if found:
        return found.pop() if len(found) == 1 else None
    if lexicon.denials(text):
        return Certainty.ABSENT
    if lexicon.hedges(text):
        return Certainty.UNCERTAIN
    unknown, telling = lexicon.unknown(text)
    return Certainty.PRESENT if len(unknown) < telling else None


def _side(statements: Sequence[Statement], text: str) -> Side | None:
    named = {parts(one.location)[0] for one in statements if one.location}
    if not named:
        named = {place.side for place in find_places(find_words(text, 0, len(text)))}
    named.discard(None)
    if not named:
        return None
    return "left" if named == {"left"} else "right" if named == {"right"} else "both"


def _named(findings: Sequence[str]) -> str:
    named = [name for name in dict.fromkeys(findings) if name != NO_FINDING]
    return f" ({', '.join(named)})" if named else ""


def _quoted(words: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(words))
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return ", ".join(repr(word[:30]) for word in distinct[:_SHOWN]) + more
