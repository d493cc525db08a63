"""What every kind of searcher is: nearest unit vectors by cosine, over ids that the caller chose.

Vectors only: nothing here knows of cases, persons or reports.  Vectors are brought to unit length when they come in
and kept as float16; a score is the cosine of the query with the stored vector, computed in float32.  Results are in
the order (-score rounded to 1e-6, id), so that equal vectors come in the order of their ids whatever the index did.

Adding and removing are for one writer; any number of threads may search a searcher that nobody writes to.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

import numpy as np
from jaxtyping import Float32, Int64
from pydantic import Field

from vlp.config import Config
from vlp.errors import BackendError, DataError

DECIMALS = 6
"""Scores closer than this are ties."""

_SHORTEST = 1e-6
"""Norm below which a vector has no direction worth keeping."""

Count = Annotated[int, Field(ge=1)]


class FlatConfig(Config):
    """Every vector is compared: exact, nothing to build.  The reference, and the best kind for small archives."""

    kind: Literal["flat"] = "flat"


class IvfFastScanConfig(Config):
    """Inverted lists of 4-bit product codes read 32 at a time (fast scan), the best of them re-ranked by the vectors.

    Jegou, Douze, Schmid: Product Quantization for Nearest Neighbor Search (2011); Andre, Kermarrec, Le Scouarnec:
    Quicker ADC (2019).
    """

    kind: Literal["ivf_fastscan"] = "ivf_fastscan"
    lists: Count | None = None
    """None: by the count of vectors when the lists are learned."""
    probes: Count = 64
    """Lists that are read for a query."""
    rerank: Count = 10
    """Candidates for each result that is wanted, all compared exactly."""


class IvfSq8Config(Config):
    """Inverted lists of 8-bit numbers, the best of them re-ranked by the vectors."""

    kind: Literal["ivf_sq8"] = "ivf_sq8"
    lists: Count | None = None
    """None: by the count of vectors when the lists are learned."""
    probes: Count = 64
    """Lists that are read for a query."""
    rerank: Count = 2
    """Candidates for each result that is wanted, all compared exactly."""


class HnswConfig(Config):
    """A graph of neighbours, walked towards the query.

    Malkov, Yashunin: Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
    World graphs (2018).
    """

    kind: Literal["hnsw"] = "hnsw"
    links: Annotated[int, Field(ge=4, le=128)] = 32
    """Neighbours that a vector is linked to."""
    build_effort: Count = 64
    """Candidates kept while a vector is linked."""
    effort: Count = 128
    """Candidates kept while a query walks."""


KindConfig = Annotated[FlatConfig | IvfFastScanConfig | IvfSq8Config | HnswConfig, Field(discriminator="kind")]
"""A kind with its parameters; those of searching are set by `tune`, those of building before the first vector."""


class MeasuredRecall(Config):
    """How many of the true nearest vectors a searcher found, for queries it was not tuned on."""

    k: Count = 10
    asked: Annotated[float, Field(gt=0, le=1)]
    """What it was tuned for."""
    found: Annotated[float, Field(ge=0, le=1)]
    """Mean share of the true `k` nearest."""
    queries: Count


class KindFacts(Config):
    """What a searcher says of itself."""

    parameters: KindConfig
    dim: Count
    count: Annotated[int, Field(ge=0)]
    """Vectors that can be found."""
    dead: Annotated[int, Field(ge=0)] = 0
    """Rows of removed vectors that still take room; `rebuild` frees them."""
    build_s: Annotated[float, Field(ge=0)] = 0.0
    """Seconds the last build took."""
    bytes: Annotated[int, Field(ge=0)] = 0
    """Of vectors, ids, codes and links together."""
    recall: MeasuredRecall | None = None
    """None where it was not measured; `flat` needs no measuring."""


class Searcher(Protocol):
    """Nearest vectors by cosine.  Ids are chosen by the caller: unique, 0 or above."""

    dim: int

    @property
    def facts(self) -> KindFacts:
        """Kind, parameters, counts, bytes, seconds and measured recall."""
        ...

    def __len__(self) -> int:
        """Vectors that can be found."""
        ...

    def add(self, ids: Int64[np.ndarray, " n"], vectors: Float32[np.ndarray, "n dim"]) -> None:
        """Takes vectors in, all or none.

        Raises:
            DataError: for numbers that are not finite, a vector of no length, another width, or an id that is taken.
        """
        ...

    def remove(self, ids: Int64[np.ndarray, " n"]) -> int:
        """Never finds these again; ids it does not hold are no error.  Returns how many were removed."""
        ...

    def rebuild(self) -> None:
        """Builds anew from the stored vectors: what was removed takes no room afterwards."""
        ...

    def search(
        self, queries: Float32[np.ndarray, "q dim"], k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[Float32[np.ndarray, "q found"], Int64[np.ndarray, "q found"]]:
        """Cosines and ids of the `k` nearest vectors of every query, best first; fewer where there are fewer.

        Args:
            queries: finite and of some length.
            k: how many.
            allowed: ids (integers), or a truth value per id 0, 1, 2, ...; nothing else is ever returned.

        Raises:
            DataError: for queries that are not finite, of no length or another width, or k below 1.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes it whole into a folder, which is made."""
        ...

    @classmethod
    def open(cls, folder: Path, *, mmap: bool = True) -> Self:
        """A searcher of this kind as it was saved; with `mmap` the vectors stay on disk until they are read.

        Raises:
            DataError: for a folder that is damaged, or was written by another kind.
        """
        ...


def load_faiss() -> Any:
    """The faiss module.

    Raises:
        BackendError: if it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise BackendError("searching needs faiss: pip install 'vlp[retrieval]' (or 'vlp[retrieval-gpu]')") from None
    return faiss


def checked_vectors(vectors: np.ndarray, dim: int, *, what: str) -> Float32[np.ndarray, "n dim"]:
    """The vectors at unit length.

    Raises:
        DataError: for another width, numbers that are not finite, or a vector of no length; `what` names them.
    """
    array = np.asarray(vectors)
    if array.ndim != 2 or array.shape[1] != dim:
        raise DataError(f"{what}: shape {list(array.shape)}, wanted rows of {dim} numbers")
    unit = np.array(array, dtype=np.float32, order="C")
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", unit, unit))
        if not (np.isfinite(norms) & (norms >= _SHORTEST)).all():  # squares may leave float32 where the numbers do not
            norms = np.sqrt(np.einsum("nd,nd->n", unit, unit, dtype=np.float64))
    if not np.isfinite(norms).all():
        raise DataError(f"{what}: row {int(np.flatnonzero(~np.isfinite(norms))[0])} is not finite")
    if (norms < _SHORTEST).any():
        raise DataError(f"{what}: row {int(np.flatnonzero(norms < _SHORTEST)[0])} has no length, so no direction")
    unit /= norms[:, None].astype(np.float32)
    return unit


def checked_ids(ids: np.ndarray, count: int) -> Int64[np.ndarray, " n"]:
    """The ids as int64.

    Raises:
        DataError: if they are not `count` different whole numbers from 0.
    """
    array = np.asarray(ids)
    if array.shape != (count,) or (array.dtype.kind not in "iu" and count):
        raise DataError(f"ids: shape {list(array.shape)} of {array.dtype}, wanted {count} whole numbers")
    whole: np.ndarray = array.astype(np.int64)
    if count and int(whole.min()) < 0:
        raise DataError("ids: below 0; an id is 0 or above")
    if len(np.unique(whole)) != count:
        raise DataError("ids: the same id twice in one call")
    return whole
