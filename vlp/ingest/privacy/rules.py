"""The scanner that needs no model: every rule of this folder over one text."""

import hashlib
import importlib.resources
from functools import cache

from vlp.ingest.privacy.dates import DateOrder, find_dates
from vlp.ingest.privacy.identifiers import find_identifiers
from vlp.ingest.privacy.institutions import find_institutions
from vlp.ingest.privacy.names import find_names
from vlp.ingest.privacy.phi import Hit, merged, without_tokens, without_wraps


class RuleScanner:
    """Finds what identifies a person by cues, forms and word lists; see `docs/explanation/privacy.md` for how well."""

    def __init__(self, *, order: DateOrder = "month_first") -> None:
        self._order = order

    def scan(self, text: str) -> tuple[Hit, ...]:
        """The hits in `text`, in order and without overlaps."""
        plain = without_wraps(without_tokens(text))
        dates = (Hit(date.start, date.end, "date") for date in find_dates(plain, order=self._order))
        return merged((*find_names(plain), *find_institutions(plain), *find_identifiers(plain), *dates))

    def fingerprint(self) -> str:
        """Changes with the text of the rules."""
        return _rules_hash()


@cache
def _rules_hash() -> str:
    digest = hashlib.sha256()
    for name in ("dates", "identifiers", "institutions", "names", "cues", "phi", "rules", "words"):
        digest.update((importlib.resources.files("vlp.ingest.privacy") / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
