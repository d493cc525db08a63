"""What an index says of itself: `index.json`, the one file that says which segments count."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.errors import DataError
from vlp.records import Split
from vlp.retrieval import kinds
from vlp.retrieval.store.vectors import VectorKind

FILE_NAME = "index.json"

Count = Annotated[int, Field(ge=0)]
KindName = Literal["auto", "flat", "ivf_fastscan", "ivf_sq8", "hnsw"]


class SearchPlan(Config):
    """Which kind of searcher the vectors get."""

    kind: KindName = "auto"
    """auto: by the count of vectors, the recall and the memory."""
    recall: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the true 10 nearest that a kind is tuned to find; flat finds all."""
    memory_bytes: Annotated[int, Field(ge=1)] | None = None

    def config(self, count: int, dim: int) -> kinds.KindConfig:
        """The kind for so many vectors."""
        made: dict[str, Callable[[], kinds.KindConfig]] = {
            "flat": kinds.FlatConfig,
            "ivf_fastscan": kinds.IvfFastScanConfig,
            "ivf_sq8": kinds.IvfSq8Config,
            "hnsw": kinds.HnswConfig,
        }
        if self.kind != "auto":
            return made[self.kind]()
        return kinds.choose(count, dim, memory_bytes=self.memory_bytes, recall=self.recall)


class SpaceFacts(Config):
    """One kind of vectors of a segment."""

    kind: VectorKind
    what: str = ""
    """The finding, where it is of one."""
    folder: Annotated[str, Field(pattern=r"^space-\d{2,4}$")]
    count: Count
    sha256: dict[str, str]
    """Checksum by file; the searcher's side-car has those of its own files."""


class SegmentFacts(Config):
    """Cases that came in together."""

    name: Annotated[str, Field(pattern=r"^\d{6}$")]
    images: Count
    """Rows, removed ones too."""
    removed: Count = 0
    removed_file: Annotated[str, Field(pattern=r"^removed-\d{6}\.npy$")] | None = None
    spaces: tuple[SpaceFacts, ...]
    sha256: dict[str, str]
    """Checksum by file."""


class IndexFacts(Config):
    """What an index says of itself."""

    format: Literal["vlp-index"] = "vlp-index"
    schema_version: Literal[2] = 2
    vlp_version: str
    checkpoint: str
    """Fingerprint of the model that made the vectors; only its queries mean anything here."""
    generation: Annotated[int, Field(ge=1)] = 1
    """Grows with every write."""
    dim: Annotated[int, Field(ge=1)]
    images: Count = 0
    studies: Count = 0
    persons: Count = 0
    splits: dict[Split, int] = Field(default_factory=dict)
    """Studies by split."""
    synthetic: bool = False
    """Whether any study was drawn by a program."""
    plan: SearchPlan = SearchPlan()
    segments: tuple[SegmentFacts, ...] = ()


def counted(facts: IndexFacts, cases: pd.DataFrame) -> IndexFacts:
    """The facts with what there is to count in a table of cases."""
    studies = cases.drop_duplicates("key")
    counts = {
        "images": len(cases),
        "studies": len(studies),
        "persons": int(studies["person"].nunique()),
        "splits": {str(split): int(count) for split, count in Counter(studies["split"]).items()},
        "synthetic": bool(studies["synthetic"].any()),
    }
    return facts.model_copy(update=counts)


def read_facts(folder: Path) -> IndexFacts:
    """What the index in a folder says of itself.

    Raises:
        DataError: for a folder that holds no index of this version.
    """
    try:
        content = (folder / FILE_NAME).read_bytes()
    except OSError as error:
        raise DataError(f"{folder}: not an index: {FILE_NAME}: {error.strerror}; run vlp index build first") from None
    try:
        return IndexFacts.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(
            f"{folder / FILE_NAME}: not an index of this version: {place}: {fault['msg']}; run vlp index build again"
        ) from None
