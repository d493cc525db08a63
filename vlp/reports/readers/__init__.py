"""Readers of reports behind one protocol: the rules, any OpenAI-compatible endpoint, RadGraph, CheXbert."""

from functools import lru_cache
from typing import Annotated

from pydantic import Field

from vlp.reports.readers.chexbert import ChexbertReaderConfig
from vlp.reports.readers.openai import OpenaiReaderConfig
from vlp.reports.readers.radgraph import RadgraphReaderConfig
from vlp.reports.readers.reader import Reader
from vlp.reports.readers.rules import RulesReaderConfig

ReaderConfig = Annotated[
    RulesReaderConfig | OpenaiReaderConfig | RadgraphReaderConfig | ChexbertReaderConfig, Field(discriminator="kind")
]
"""Which reader, and how it is set."""


@lru_cache(maxsize=4)
def make_reader(config: ReaderConfig) -> Reader:
    """The reader a configuration describes; one per process, so that a model is loaded once.

    Raises:
        BackendError: what it needs is not installed or has no weights.
        PrivacyError: it would send reports to another machine without leave.
    """
    return config.build()


__all__ = ["Reader", "ReaderConfig", "RulesReaderConfig", "make_reader"]
