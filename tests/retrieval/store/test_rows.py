from dataclasses import replace

import pandas as pd

from tests.retrieval.conftest import make_study
from vlp.records import Certainty, Person
from vlp.retrieval.store.rows import SCHEMA, frame_of, row_facts, table_of

FINGERPRINT = bytes(range(32))


def row(**changes: object) -> dict:
    study = replace(make_study(1, views=2).study, **changes)
    return row_facts(study, "k-1", 1, fingerprint=FINGERPRINT) | {"kind": "finding", "what": "mass"}


def test_every_column_comes_back_as_it_was_said() -> None:
    labels = {"nodule": Certainty.PRESENT, "mass": Certainty.ABSENT, "edema": Certainty.UNCERTAIN}
    person = Person(id="p", age=61.0, sex="F", groups={"site": "north", "date": "2019-03"})
    frame = frame_of(table_of([row(labels=labels, person=person, earlier=("a", "b"))]))
    assert tuple(frame.columns) == tuple(SCHEMA.names)
    assert frame.iloc[0].to_dict() == {
        "key": "k-1", "image": 1, "kind": "finding", "what": "mass", "person": "p", "study": "study-1",
        "view": "lateral", "split": "train", "present": ("nodule",), "uncertain": ("edema",), "absent": ("mass",),
        "report": "FINDINGS: Words of study 1.\nIMPRESSION: Case 1.", "age": 61.0, "sex": "F",
        "groups": {"site": "north", "date": "2019-03"}, "order": 2, "date": "2019-03", "source": "made",
        "synthetic": True, "fingerprint": FINGERPRINT,
    }  # fmt: skip


def test_what_is_not_known_is_null() -> None:
    frame = frame_of(table_of([row(labels={}, report=None, person=Person(id="p")), row()]))
    first = frame.iloc[0]
    assert all(first[name] is None for name in ("report", "sex", "date"))
    assert pd.isna(first["age"])
    assert first["present"] == first["uncertain"] == first["absent"] == ()
    assert first["groups"] == {}
    assert frame["report"].iloc[1].startswith("FINDINGS"), "a null beside it changes nothing"


def test_no_row_is_a_table_too() -> None:
    frame = frame_of(table_of([]))
    assert list(frame.columns) == SCHEMA.names
    assert len(frame) == 0
