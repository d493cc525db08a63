from pathlib import Path

import pandas as pd
import pytest

from vlp.errors import DataError
from vlp.retrieval.facts import FILE_NAME, IndexFacts, SearchPlan, counted, read_facts
from vlp.retrieval.kinds import FlatConfig, HnswConfig, IvfFastScanConfig

FACTS = IndexFacts(vlp_version="1", checkpoint="a" * 64, dim=4)


def test_counts_are_those_of_the_cases() -> None:
    cases = pd.DataFrame(
        {
            "key": ["a", "a", "b", "c"],
            "person": ["p", "p", "p", "q"],
            "split": ["train", "train", "train", "test"],
            "synthetic": [False, False, True, False],
        }
    )
    facts = counted(FACTS, cases)
    assert (facts.images, facts.studies, facts.persons, facts.synthetic) == (4, 3, 2, True)
    assert facts.splits == {"train": 2, "test": 1}


def test_facts_are_read_as_they_were_written(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(FACTS.model_dump_json())
    assert read_facts(tmp_path) == FACTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": "vlp-index", "schema_version": 1}', "schema_version.*vlp index build again"),
        ("words", "not an index of this version"),
        (
            FACTS.model_dump_json().replace(
                '"segments":[]', '"segments":[{"name":"../../etc","images":0,"spaces":[],"sha256":{}}]'
            ),
            "segments.0.name",
        ),
    ],
)
def test_what_is_no_index_of_this_version_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(DataError, match=message):
        read_facts(tmp_path)


def test_a_plan_chooses_by_count_or_as_told() -> None:
    assert SearchPlan().config(1000, 64) == FlatConfig()
    assert isinstance(SearchPlan(recall=0.95).config(1_000_000, 64), IvfFastScanConfig)
    assert isinstance(SearchPlan(kind="hnsw").config(10, 64), HnswConfig)
