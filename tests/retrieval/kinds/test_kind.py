import builtins

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from vlp.errors import BackendError, DataError
from vlp.retrieval.kinds.kind import (
    HnswConfig,
    IvfFastScanConfig,
    KindConfig,
    KindFacts,
    checked_ids,
    checked_vectors,
    load_faiss,
)


def test_vectors_come_out_at_unit_length_and_the_callers_stay_as_they_are() -> None:
    given = np.array([[3.0, 4.0], [0.0, -2.0]], np.float32)
    unit = checked_vectors(given, 2, what="vectors")
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)
    assert given[0, 0] == 3.0


@pytest.mark.parametrize("size", [1e25, 1e-4])
def test_numbers_whose_squares_leave_float32_are_no_fault(size: float) -> None:
    unit = checked_vectors(np.array([[3.0, 4.0]], np.float32) * np.float32(size), 2, what="vectors")
    np.testing.assert_allclose(unit, [[0.6, 0.8]], atol=1e-6)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ([[1.0, np.nan]], "row 0 is not finite"),
        ([[1.0, 0.0], [np.inf, 0.0]], "row 1 is not finite"),
        ([[0.0, 1.0], [0.0, 0.0]], "row 1 has no length"),
        ([[1.0, 2.0, 3.0]], r"shape \[1, 3\], wanted rows of 2"),
        ([1.0, 2.0], r"shape \[2\]"),
    ],
)
def test_vectors_that_mean_nothing_are_refused(fault: list, words: str) -> None:
    with pytest.raises(DataError, match=words):
        checked_vectors(np.array(fault, np.float32), 2, what="vectors")


def test_ids_are_different_whole_numbers_from_zero() -> None:
    assert checked_ids(np.array([5, 0], np.uint8), 2).dtype == np.int64
    assert len(checked_ids(np.array([]), 0)) == 0
    for fault in ([1, 1], [-1, 2], [1.0, 2.0], [1]):
        with pytest.raises(DataError, match="ids"):
            checked_ids(np.array(fault), 2)


def test_a_kind_is_read_by_its_name_with_its_own_parameters_only() -> None:
    read = TypeAdapter(KindConfig).validate_python
    assert read({"kind": "ivf_fastscan", "probes": 3}) == IvfFastScanConfig(probes=3)
    with pytest.raises(ValidationError, match="probes"):
        read({"kind": "hnsw", "probes": 3})
    with pytest.raises(ValidationError, match="kind"):
        read({"kind": "annoy"})


def test_facts_survive_json() -> None:
    facts = KindFacts(parameters=HnswConfig(effort=77), dim=4, count=2)
    assert KindFacts.model_validate_json(facts.model_dump_json()) == facts


def test_a_missing_faiss_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name, *rest):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BackendError, match="pip install"):
        load_faiss()
