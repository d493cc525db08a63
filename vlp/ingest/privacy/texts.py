"""All texts of one study, treated alike: dates moved or masked, hits masked or counted, the study's own ids gone."""

import re
from collections import Counter
from collections.abc import Iterable

from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.dates import find_dates, shifted
from vlp.ingest.privacy.phi import Hit, HitKind, Scanner, mask, merged, without_tokens, without_wraps
from vlp.ingest.privacy.words import ORDINARY

_SHORTEST_ID = 4
"""Characters; shorter ids are not looked for in texts: "7" is everywhere."""


class StudyTexts:
    """Cleans the texts of one study and counts what it finds in them."""

    def __init__(self, config: PrivacyConfig, scanner: Scanner, *, days: int, ids: Iterable[str]) -> None:
        self.hits: Counter[HitKind] = Counter()
        """What was found so far, dates included."""
        self._config = config
        self._scanner = scanner
        self._days = days
        self._ids = _pattern_of(ids)
        self._hidden: set[str] = set()

    def clean(self, text: str) -> str:
        """`text` after the policy, as long as before: spans into it stay right."""
        hits = self._find(text)
        self.hits.update(hit.kind for hit in hits)
        dates = [hit for hit in hits if hit.kind == "date"]
        others = [hit for hit in hits if hit.kind != "date"]
        if self._config.on_phi == "count":
            others = [hit for hit in others if self._holds_id(text, hit)]  # ids go whatever else stays
        for hit in others:
            self._remember(text[hit.start : hit.end], hit.kind)
        return mask(self._without_dates(text, dates), others)

    def clean_derived(self, text: str) -> str:
        """`text`, made from one that was cleaned before, after the policy and without the words hidden there."""
        text = self.clean(text)
        if not self._hidden:
            return text
        longest_first = sorted(self._hidden, key=lambda words: (-len(words), words))
        pattern = rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)"
        return mask(text, (Hit(*match.span(), "name") for match in re.finditer(pattern, text)))

    def _find(self, text: str) -> tuple[Hit, ...]:
        own = self._ids.finditer(text) if self._ids else ()
        return merged((*self._scanner.scan(text), *(Hit(*match.span(), "number") for match in own)))

    def _holds_id(self, text: str, hit: Hit) -> bool:
        return bool(self._ids and self._ids.search(text, hit.start, hit.end))

    def _remember(self, words: str, kind: HitKind) -> None:
        pieces = [on_one_line(words)]
        if kind == "name":
            pieces += [word for word in re.findall(r"[^\W\d_]{3,}", words) if word.lower() not in ORDINARY]
        self._hidden.update(piece for piece in pieces if len(piece) > 2)

    def _without_dates(self, text: str, dates: Iterable[Hit]) -> str:
        if self._config.dates == "keep":
            return text
        hidden = {(hit.start, hit.end): hit for hit in dates}
        if self._config.dates == "shift":
            order = self._config.date_order
            for span in find_dates(without_wraps(without_tokens(text)), order=order):
                moved = shifted(text, span, days=self._days, order=order)
                wrapped = "\n" in text[span.start : span.end]  # a break has to stay where it is
                if moved is not None and not wrapped and (span.start, span.end) in hidden:
                    del hidden[span.start, span.end]
                    text = text[: span.start] + moved + text[span.end :]
        return mask(text, hidden.values())


def _pattern_of(ids: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for ids as they may stand in a text: whole, or their digits without the letters before them."""
    telling: set[str] = set()
    for id_ in ids:
        digits = id_.lstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
        if digits.isdigit() and len(digits) > _SHORTEST_ID:
            telling.add(digits)
        if len(id_) > _SHORTEST_ID + 1 or (len(id_) == len(digits) >= _SHORTEST_ID):
            telling.add(id_)
    if not telling:
        return None
    longest_first = sorted(telling, key=lambda id_: (-len(id_), id_))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)", re.IGNORECASE)


def on_one_line(text: str) -> str:
    """`text` with single spaces for all white space, as sentences quote reports."""
    return " ".join(text.split())
