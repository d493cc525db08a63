"""What the program says while it saves."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Messages of the package's log, warnings and above, as they come."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("vlp")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
