from pathlib import Path

import pytest

from vlp.errors import BackendError
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.phi import Hit
from vlp.ingest.privacy.rules import RuleScanner
from vlp.ingest.privacy.scanners import UnionScanner, make_scanner

TEXT = "Seen by Dr. Adler on 3/4/2019."


class _Fixed:
    def __init__(self, *hits: Hit) -> None:
        self._hits = hits

    def scan(self, text: str) -> tuple[Hit, ...]:
        return tuple(hit for hit in self._hits if hit.end <= len(text))

    def fingerprint(self) -> str:
        return str(len(self._hits))


def test_a_union_finds_what_any_finds():
    union = UnionScanner((_Fixed(Hit(0, 4, "name"), Hit(9, 12, "web")), _Fixed(Hit(2, 8, "phone"))))
    assert union.scan("x" * 20) == (Hit(0, 8, "phone"), Hit(9, 12, "web"))
    assert union.fingerprint() == "2+1"


def test_kinds_of_scanner(tmp_path: Path):
    assert make_scanner(PrivacyConfig(phi_scan="off")).scan(TEXT) == ()
    rules = make_scanner(PrivacyConfig())
    assert isinstance(rules, RuleScanner)
    assert [hit.kind for hit in rules.scan(TEXT)] == ["name", "date"]
    with pytest.raises(BackendError, match="holds no model"):
        make_scanner(PrivacyConfig(phi_scan=f"transformer:{tmp_path}"))
