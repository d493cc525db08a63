"""Keeps persons out of shards: keyed pseudonyms, dates, a scan of every text, text drawn in images (see `Privacy`)."""

from vlp.ingest.privacy.budget import PhiBudget
from vlp.ingest.privacy.cleaning import Cleaned, Privacy
from vlp.ingest.privacy.config import PrivacyConfig
from vlp.ingest.privacy.header import allowed_facts, header_action
from vlp.ingest.privacy.phi import Hit, Scanner
from vlp.ingest.privacy.pseudonyms import make_key_file

__all__ = [
    "Cleaned",
    "Hit",
    "PhiBudget",
    "Privacy",
    "PrivacyConfig",
    "Scanner",
    "allowed_facts",
    "header_action",
    "make_key_file",
]
