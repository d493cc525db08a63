"""Microsoft Presidio's recognisers as a scanner: patterns with checksums, and the names a spaCy model sees.

Needs `presidio-analyzer`.  Nothing is ever fetched: without a model Presidio works on bare tokens, and its recogniser
of mail addresses, which asks the network for a list of domains, stays out, and so does that of links, which takes
"bilaterally.There" for one (the rules find both themselves).
"""

from importlib import import_module
from typing import Any

from vlp.errors import BackendError
from vlp.ingest.privacy.phi import Hit, HitKind, believable, merged

_MIN_SCORE = 0.4
"""Presidio's own score of a plain pattern; weaker ones need words around them ("driver license"), or "T8" is one."""
_KINDS: dict[str, HitKind] = {
    "PERSON": "name",
    "PHONE_NUMBER": "phone",
    "AGE": "age",
    "LOCATION": "address",
    "ORGANIZATION": "institution",
    **dict.fromkeys(("IP_ADDRESS", "MAC_ADDRESS"), "web"),
    **dict.fromkeys(
        ("US_SSN", "US_ITIN", "US_PASSPORT", "US_MBI", "US_NPI", "US_DRIVER_LICENSE", "US_BANK_NUMBER", "CREDIT_CARD",
         "IBAN_CODE", "MEDICAL_LICENSE", "UK_NHS", "CRYPTO", "UUID"),
        "number",
    ),
}  # fmt: skip
"""Presidio's entities that are scanned for; dates are left to the rules, which can also move them."""


class PresidioScanner:
    """Hits of Presidio; `model` is an installed spaCy model or a folder with one, None for none."""

    def __init__(self, *, model: str | None = None) -> None:
        try:
            analyzer: Any = import_module("presidio_analyzer")
            engines: Any = import_module("presidio_analyzer.nlp_engine")
            spacy: Any = import_module("spacy")
        except ImportError:
            raise BackendError("phi_scan: presidio needs presidio-analyzer; install vlp[privacy]") from None
        engine = engines.SpacyNlpEngine(models=[{"lang_code": "en", "model_name": model or "blank"}])
        # Loaded here rather than by the engine, which would download a model that is not installed.
        engine.nlp = {"en": _load(spacy, model)}
        self._analyzer: Any = analyzer.AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
        self._analyzer.registry.remove_recognizer("EmailRecognizer")
        known = set(self._analyzer.get_supported_entities("en"))
        self._entities = sorted(known & _KINDS.keys())
        self._version = f"presidio:{model or 'blank'}:{spacy.__version__}"

    def scan(self, text: str) -> tuple[Hit, ...]:
        """The hits in `text`, in order and without overlaps."""
        found = self._analyzer.analyze(text=text, language="en", entities=self._entities, score_threshold=_MIN_SCORE)
        return merged(believable(text, (Hit(hit.start, hit.end, _KINDS[hit.entity_type]) for hit in found)))

    def fingerprint(self) -> str:
        """Model and version."""
        return self._version


def _load(spacy: Any, model: str | None) -> Any:
    if model is None:
        return spacy.blank("en")
    try:
        return spacy.load(model)
    except (OSError, ValueError, ImportError):
        raise BackendError(
            f"phi_scan: the spaCy model {model} is not installed here; install it, or use presidio"
        ) from None
