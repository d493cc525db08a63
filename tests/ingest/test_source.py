import pickle
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest

from vlp.config import validate
from vlp.errors import ConfigError
from vlp.ingest.source import Source, StudyFault


class Small(Source):
    kind: Literal["small"] = "small"
    count: int = 2

    def units(self) -> Sequence[str]:
        return [str(number) for number in range(self.count)]

    def load(self, unit: str) -> Iterator[StudyFault]:
        yield StudyFault(code="none", message=f"unit {unit}")


def test_a_source_is_a_configuration_and_travels():
    source = validate(Small, {"kind": "small", "count": 3}, where="here")
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert list(copy.units()) == ["0", "1", "2"]
    assert (source.name, source.fingerprint(), source.synthetic) == ("small", "", False)
    with pytest.raises(ConfigError, match="unknown key"):
        validate(Small, {"counts": 3}, where="here")


def test_an_unfinished_source_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        Source()
