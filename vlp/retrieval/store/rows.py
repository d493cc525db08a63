"""What is known of a vector beside its numbers: whose it is, what was taken of it, and what its study is labelled."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from vlp.records import Certainty, Study

_TEXTS = pa.list_(pa.string())

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("image", pa.int32()),
        ("kind", pa.string()),
        ("what", pa.string()),
        ("person", pa.string()),
        ("study", pa.string()),
        ("view", pa.string()),
        ("split", pa.string()),
        ("present", _TEXTS),
        ("uncertain", _TEXTS),
        ("absent", _TEXTS),
        ("report", pa.string()),
        ("age", pa.float64()),
        ("sex", pa.string()),
        ("groups", pa.map_(pa.string(), pa.string())),
        ("order", pa.int32()),
        ("date", pa.string()),
        ("source", pa.string()),
        ("synthetic", pa.bool_()),
        ("fingerprint", pa.binary(32)),
    ]
)
"""Columns of a part's table, one row per vector:

key, image   the study's key in the shards, and the number of the image in it
kind, what   see `VectorKind`; the finding's name where the vector is of a finding or a region, else ""
present, uncertain, absent    findings by what the labels say; what is in none of them is unknown
report       as written, or null
groups       other groups of the person, e.g. site: a dict
order        how many earlier studies of the person the archive names
date         the group named date, if the archive has one, else null
fingerprint  of the image (`image_fingerprint`), for near-duplicates
"""


def row_facts(study: Study, key: str, image: int, *, fingerprint: bytes) -> dict[str, Any]:
    """The columns of `SCHEMA` that an image's vectors share: all but kind and what."""
    labelled = {
        certainty.value: [name for name, said in study.labels.items() if said is certainty] for certainty in Certainty
    }
    return {
        "key": key,
        "image": image,
        "person": study.person.id,
        "study": study.id,
        "view": study.images[image].view,
        "split": study.split,
        **labelled,
        "report": study.report.text if study.report is not None else None,
        "age": study.person.age,
        "sex": study.person.sex,
        "groups": list(study.person.groups.items()),
        "order": len(study.earlier),
        "date": study.person.groups.get("date"),
        "source": study.source,
        "synthetic": study.synthetic,
        "fingerprint": fingerprint,
    }


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a table of `SCHEMA`."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def frame_of(table: pa.Table) -> pd.DataFrame:
    """The table for pandas: lists of findings are tuples, groups a dict, null texts None, null ages NaN."""
    frame = table.to_pandas(maps_as_pydicts="strict")
    for name in ("present", "uncertain", "absent"):
        frame[name] = [tuple(values) for values in frame[name]]
    for name in ("report", "sex", "date"):
        texts = frame[name].astype(object)
        frame[name] = texts.where(texts.notna(), None)
    return frame
