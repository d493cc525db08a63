"""The scanner that a configuration asks for; models come on top of the rules, never in their place."""

from collections.abc import Sequence
from pathlib import Path

from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.phi import Hit, Scanner, merged
from vlp.ingest.privacy.rules import RuleScanner


class UnionScanner:
    """Finds what any of its scanners finds."""

    def __init__(self, scanners: Sequence[Scanner]) -> None:
        self._scanners = tuple(scanners)

    def scan(self, text: str) -> tuple[Hit, ...]:
        """The hits of all scanners, in order and without overlaps."""
        return merged(hit for scanner in self._scanners for hit in scanner.scan(text))

    def fingerprint(self) -> str:
        """Changes when any scanner would find something else."""
        return "+".join(scanner.fingerprint() for scanner in self._scanners)


def make_scanner(config: PrivacyConfig) -> Scanner:
    """The scanner of `config.phi_scan`; one that finds nothing for `off`.

    Raises:
        BackendError: if the library or the model folder that is asked for is not there.
    """
    kind, _, argument = config.phi_scan.partition(":")
    if kind == "off":
        return UnionScanner(())
    rules = RuleScanner(order=config.date_order)
    if kind == "presidio":
        from vlp.ingest.privacy.presidio import PresidioScanner

        return UnionScanner((rules, PresidioScanner(model=argument or None)))
    if kind == "transformer":
        from vlp.ingest.privacy.transformer import TransformerScanner

        return UnionScanner((rules, TransformerScanner(Path(argument))))
    return rules
