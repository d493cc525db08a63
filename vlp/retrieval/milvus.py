"""The same searcher over Milvus: a file of this machine (Milvus Lite), or a cluster by its URL.

For archives that outgrow one machine.  Milvus keeps ids, vectors and, if asked to, columns to filter by; no report and
no pixel goes there.  Vectors are rounded to float16 as everywhere and compared by cosine, so that the flat kind finds
what `kinds.flat` finds.  The secret of a cluster is read from the environment and stands in no file, message or log.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field, ValidationError

from vlp.config import Config
from vlp.errors import BackendError, ConfigError, DataError
from vlp.retrieval.kinds.kind import (
    DECIMALS,
    FlatConfig,
    HnswConfig,
    IvfSq8Config,
    KindConfig,
    KindFacts,
    checked_ids,
    checked_vectors,
)
from vlp.retrieval.kinds.rows import Found

URI_VARIABLE, TOKEN_VARIABLE = "VLP_MILVUS_URI", "VLP_MILVUS_TOKEN"
SIDE_CAR, LITE_FILE = "milvus.json", "milvus.db"
MOST_RESULTS = 16_384
"""Milvus gives no more for a query."""
Column = Literal["VARCHAR", "INT64", "DOUBLE", "BOOL"]

_NAME, _DATABASE = r"^[A-Za-z_][A-Za-z0-9_]{0,254}$", r"(/([A-Za-z_][A-Za-z0-9_]*)?)?"
_MESSAGE_BYTES = 16 << 20
"""Of one request or answer, about; Milvus refuses more than 64 MB."""
_MOST_QUERIES, _MOST_IDS, _MOST_EFFORT = 1024, 10_000, 32_768
"""In one request."""
_SPARE = 6
"""Results fetched beyond those wanted, so that ties with the last one are told apart by their ids."""
_TIE = 2.0 * 10.0**-DECIMALS
_LISTS, _WIDEST = 1024, 32_768
_TIMEOUT_S, _LONG_S = 60.0, 3600.0
_lite_users: Counter[str] = Counter()
"""Open searchers by file of Milvus Lite: its server, threads of this process, ends with the last of them."""


class SideCar(Config):
    """What `milvus.json` states.  It names no host: whoever wrote it shall not choose where a secret is sent."""

    format: Literal["vlp-milvus-searcher"] = "vlp-milvus-searcher"
    schema_version: Literal[1] = 1
    where: Literal["beside", "cluster"]
    """beside: in `milvus.db` of the same folder; cluster: at the address in the environment."""
    collection: Annotated[str, Field(pattern=_NAME)]
    facts: KindFacts


class MilvusSearcher:
    """A `Searcher` whose vectors lie in a collection of Milvus; use it in a `with`, or close it.

    Kinds: flat (FLAT), hnsw (HNSW), ivf_sq8 (IVF_SQ8, re-ranked by the vectors).
    """

    def __init__(
        self,
        uri: str | Path,
        collection: str,
        *,
        dim: int | None = None,
        config: KindConfig | None = None,
        columns: Mapping[str, Column] | None = None,
    ) -> None:
        """Makes a new collection of vectors of `dim` numbers; without `dim`, takes one that was made so.

        `uri` is the path of a file that ends in .db, or http(s)://host[:port][/database]; `config` the kind (flat if
        None) and what a search may spend; `columns` what is known of every vector, to filter by, with types of Milvus.

        Raises:
            ConfigError: for an address, a name or a kind that Milvus cannot have.
            DataError: if the collection is there already, is not there, or was made by somebody else.
            BackendError: if Milvus is not installed or does not answer.
        """
        self._uri = checked_uri(str(uri))
        if config is not None and config.kind == "ivf_fastscan":
            raise ConfigError("Milvus has no fast-scan lists of ours; name flat, ivf_sq8 or hnsw")
        self.collection, self._build_s = collection, 0.0
        self._client: Any = _connected(self._uri)
        try:
            if dim is not None:
                self._make(dim, config or FlatConfig(), columns or {})
            self.dim, self._config, self._columns = self._found(config)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Lets go of Milvus; the server of Milvus Lite ends with the last searcher of its file."""
        if self._client is not None:
            client, self._client = self._client, None
            client.close()
            path = os.path.abspath(self._uri)
            _lite_users[path] -= 1
            if _is_file(self._uri) and _lite_users[path] == 0:
                from milvus_lite.server_manager import server_manager_instance

                server_manager_instance.release_server(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def facts(self) -> KindFacts:
        """See `Searcher`; bytes are those of ids and float32 vectors: Milvus does not say what its indexes take."""
        count = len(self)
        size, seconds = count * (4 * self.dim + 8), round(self._build_s, 3)
        return KindFacts(parameters=self._config, dim=self.dim, count=count, build_s=seconds, bytes=size)

    def __len__(self) -> int:
        """Vectors that can be found."""
        return self._count("")

    def add(self, ids: np.ndarray, vectors: np.ndarray, *, columns: Mapping[str, Sequence[Any]] | None = None) -> None:
        """See `Searcher`; `columns` has a value, or None, per vector and column of the collection.

        What came in by a call that fails is taken out again; a process that is killed may leave some of it.
        """
        unit = checked_vectors(vectors, self.dim, what="vectors")
        whole = checked_ids(ids, len(unit))
        given = columns or {}
        if set(given) != set(self._columns) or any(len(values) != len(unit) for values in given.values()):
            raise DataError(f"columns: wanted {sorted(self._columns)}, each with {len(unit)} values")
        if self._held(whole):
            raise DataError("ids: one of them is in the collection; remove it first")
        stored = unit.astype(np.float16).astype(np.float32)
        step = max(1, _MESSAGE_BYTES // (4 * self.dim + 64 * (1 + len(given))))
        for start in range(0, len(unit), step):
            some = range(start, min(start + step, len(unit)))
            rows = [
                {"id": int(whole[i]), "vector": stored[i], **{name: given[name][i] for name in given}} for i in some
            ]
            try:
                self._ask("insert", rows, to="take in vectors; look at the types of the columns and at its room")
            except BaseException:
                self._delete(whole[: some.stop].tolist())
                raise

    def remove(self, ids: np.ndarray) -> int:
        """See `Searcher`."""
        held = [row["id"] for row in self._held(np.unique(np.asarray(ids, dtype=np.int64)))]
        self._delete(held)
        return len(held)

    def rebuild(self) -> None:
        """Has Milvus write what it holds and begin to compact it; Milvus Lite compacts when it likes."""
        started = perf_counter()
        self._ask("flush", to="write the collection", timeout=_LONG_S)
        if not _is_file(self._uri):
            self._ask("compact", to="compact the collection")
        self._build_s = perf_counter() - started

    def search(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None, where: str | None = None
    ) -> Found:
        """See `Searcher`.

        `allowed` takes one request per 10,000 ids; `where` is an expression of Milvus over the columns, such as
        `view == "PA" and age > 40`, for filters that leave more.  DataError also for more results than Milvus gives.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, not {k}")
        unit = checked_vectors(queries, self.dim, what="queries")
        ids = None if allowed is None else _allowed_ids(allowed)
        parts = [" and ".join(f"({part})" for part in (where, own) if part) for own in _expressions(ids)]
        limit = min(k + _SPARE, MOST_RESULTS)
        scores, found = self._nearest(unit, parts, limit)
        while limit < MOST_RESULTS and _ties(scores, found, k):
            limit = min(4 * limit, MOST_RESULTS)
            scores, found = self._nearest(unit, parts, limit)
        if found.shape[1] < k or (found[:, k - 1] < 0).any():
            k = min(k, sum(self._count(part) for part in parts))
            if k > MOST_RESULTS:
                raise DataError(f"Milvus gives at most {MOST_RESULTS} results for a query; ask for no more")
            if (found[:, :k] < 0).any():
                scores, found = self._nearest(unit, parts, limit, most=True)
        if found.shape[1] < k or (found[:, :k] < 0).any():
            raise BackendError("Milvus finds fewer vectors than there are; make the collection anew as flat")
        if ids is not None and not np.isin(found[:, :k], ids).all():
            raise BackendError("Milvus returned what it was told to leave out; its answers cannot be used")
        return scores[:, :k], found[:, :k]

    def save(self, folder: Path) -> None:
        """Writes `milvus.json` into a folder; the vectors stay, those of Milvus Lite must be in its `milvus.db`."""
        folder, beside = Path(folder), _is_file(self._uri)
        if beside and Path(self._uri).resolve() != (folder / LITE_FILE).resolve():
            raise ConfigError(f"{folder}: the vectors lie elsewhere; make the collection in {LITE_FILE} of this folder")
        self._ask("flush", to="write the collection", timeout=_LONG_S)
        stated = SideCar(where="beside" if beside else "cluster", collection=self.collection, facts=self.facts)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{SIDE_CAR}.partial"
            partial.write_text(stated.model_dump_json(indent=2) + "\n", encoding="utf-8")
            os.replace(partial, folder / SIDE_CAR)
        except OSError as error:
            raise DataError(f"{folder}: cannot write the index: {error.strerror}") from None

    @classmethod
    def open(cls, folder: Path, *, mmap: bool = True) -> Self:
        """See `Searcher`; a cluster is the one in `VLP_MILVUS_URI`, and what is in memory is up to Milvus."""
        del mmap
        folder = Path(folder)
        try:
            side_car = SideCar.model_validate_json((folder / SIDE_CAR).read_bytes())
        except OSError as error:
            raise DataError(f"{folder}: holds no searcher: {SIDE_CAR}: {error.strerror}") from None
        except ValidationError:
            raise DataError(f"{folder / SIDE_CAR}: no searcher of this version; make the collection anew") from None
        uri = str(folder / LITE_FILE) if side_car.where == "beside" else os.environ.get(URI_VARIABLE, "")
        if not uri:
            raise ConfigError(f"{folder}: its vectors are on a cluster; set {URI_VARIABLE} to its address")
        if side_car.where == "beside" and not Path(uri).is_dir():
            raise DataError(f"{uri}: missing; make the collection anew")
        searcher = cls(uri, side_car.collection, config=side_car.facts.parameters)
        if (searcher.dim, len(searcher)) != (side_car.facts.dim, side_car.facts.count):
            searcher.close()
            raise DataError(f"{folder}: the collection was changed since; save it again or make it anew")
        searcher._build_s = side_car.facts.build_s
        return searcher

    def _make(self, dim: int, config: KindConfig, columns: Mapping[str, Column]) -> None:
        from pymilvus import DataType

        if not 1 <= dim <= _WIDEST or any(not re.fullmatch(_NAME, name) for name in (*columns, self.collection)):
            raise ConfigError(f"collection: widths are 1 to {_WIDEST}, names letters, digits and _, no digit first")
        if self._ask("has_collection", to="look for the collection"):
            raise DataError(f"there is a collection {self.collection}; name another or drop it yourself")
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for name, column in columns.items():
            schema.add_field(name, DataType[column], nullable=True, max_length=4096)
        index = self._client.prepare_index_params()
        kind, built = _plan(config)[0]
        # pymilvus unpacks parameters, which clusters read; Milvus Lite reads only those that are still packed.
        index.add_index("vector", kind, "vector", metric_type="COSINE", params={**built, "params": built})
        more = {"schema": schema, "index_params": index, "consistency_level": "Strong"}
        self._ask("create_collection", to="make the collection", **more)

    def _found(self, config: KindConfig | None) -> tuple[int, KindConfig, frozenset[str]]:
        """Width, parameters and columns of the collection that is there."""
        if not self._ask("has_collection", to="look for the collection"):
            raise DataError(f"Milvus holds no collection {self.collection}")
        fields = self._ask("describe_collection", to="describe the collection")["fields"]
        params = {field["name"]: field["params"] for field in fields}
        kinds: dict[str, KindConfig] = {"FLAT": FlatConfig(), "HNSW": HnswConfig(), "IVF_SQ8": IvfSq8Config()}
        index = self._ask("describe_index", "vector", to="describe the index") if "vector" in params else None
        known = kinds.get(index["index_type"]) if index and index["metric_type"] == "COSINE" else None
        if known is None or "id" not in params or (config is not None and config.kind != known.kind):
            raise DataError(f"the collection {self.collection} was not made by vlp, or as another kind")
        self._ask("load_collection", to="load the collection", timeout=_LONG_S)
        return int(params["vector"]["dim"]), config or known, frozenset(params) - {"id", "vector"}

    def _ask(self, method: str, *args: Any, to: str, timeout: float = _TIMEOUT_S, **more: Any) -> Any:
        with _told(to):
            return getattr(self._client, method)(self.collection, *args, timeout=timeout, **more)

    def _read(self, method: str, *args: Any, **more: Any) -> list[Any]:
        return list(self._ask(method, *args, to="read with this filter", consistency_level="Strong", **more))

    def _count(self, where: str) -> int:
        return int(self._read("query", where, ["count(*)"])[0]["count(*)"])

    def _held(self, ids: np.ndarray) -> list[dict[str, Any]]:
        return [row for part in _expressions(ids) for row in self._read("query", part, ["id"])]

    def _delete(self, ids: list[int]) -> None:
        for start in range(0, len(ids), _MOST_IDS):
            self._ask("delete", ids[start : start + _MOST_IDS], to="delete vectors")

    def _nearest(self, unit: np.ndarray, parts: list[str], limit: int, *, most: bool = False) -> Found:
        """Up to `limit` of all parts together, best first; ids end in -1 where there are fewer."""
        config = self._config
        rerank = config.rerank if config.kind == "ivf_sq8" else 0
        fetched = min(limit * max(1, rerank), MOST_RESULTS)
        how = {"metric_type": "COSINE", "params": _plan(config, fetched, most=most)[1]}
        step = max(1, min(_MOST_QUERIES, _MESSAGE_BYTES // (fetched * (16 + (4 * self.dim if rerank else 0)))))
        scores = np.full((len(unit), max(limit, fetched * len(parts))), -np.inf, np.float32)
        ids = np.full(scores.shape, -1, np.int64)
        fields = ["id", "vector"] if rerank else ["id"]
        for start in range(0, len(unit), step):
            some = unit[start : start + step]
            for number, part in enumerate(parts):
                asked = {"limit": fetched, "output_fields": fields, "search_params": how}
                for query, hits in enumerate(self._read("search", some, part, **asked), start):
                    place = slice(number * fetched, number * fetched + len(hits))
                    ids[query, place] = [hit["id"] for hit in hits]
                    scores[query, place] = _cosines(unit[query], hits) if rerank else [hit["distance"] for hit in hits]
        order = np.lexsort((ids, -np.round(scores, DECIMALS)), axis=-1)[:, :limit]
        return np.clip(np.take_along_axis(scores, order, 1), -1.0, 1.0), np.take_along_axis(ids, order, 1)


def checked_uri(uri: str) -> str:
    """The address; ConfigError if it cannot be one, holds a secret, or would have one sent in the clear."""
    if _is_file(uri):
        if Path(uri).parent.is_dir() and not Path(uri).is_file():
            return uri
        raise ConfigError(f"{uri}: Milvus Lite makes a folder of this name, in a folder that is there")
    try:
        parts = urlsplit(uri)
        host, fits = parts.hostname, parts.port != 0 and parts.scheme in ("http", "https")
    except ValueError:
        fits = False
    if not fits or not host or parts.query or parts.fragment or not re.fullmatch(_DATABASE, parts.path):
        raise ConfigError("the address of Milvus is a path that ends in .db, or http(s)://host[:port][/database]")
    if "@" in parts.netloc:
        raise ConfigError(f"the address of Milvus must hold no secret; put it into {TOKEN_VARIABLE}")
    if os.environ.get(TOKEN_VARIABLE) and parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1"):
        raise ConfigError(f"{TOKEN_VARIABLE} would travel in the clear; use https")
    return uri


def _is_file(uri: str) -> bool:
    return uri.endswith(".db") and "://" not in uri


def _connected(uri: str) -> Any:
    try:
        from pymilvus import MilvusClient

        if _is_file(uri):
            import milvus_lite  # noqa: F401
    except ImportError:
        raise BackendError("Milvus needs pymilvus: pip install 'vlp[milvus]'") from None
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # they log requests; what matters is raised
    token = "" if _is_file(uri) else os.environ.get(TOKEN_VARIABLE, "")
    with _told("be reached: does it run, and has no other process the file open?"):
        client = MilvusClient(uri, token=token, timeout=_TIMEOUT_S)
    _lite_users[os.path.abspath(uri)] += 1
    return client


@contextmanager
def _told(to: str) -> Iterator[None]:
    """Turns errors of Milvus into one line without what it says: that may hold parts of a request."""
    from grpc import RpcError  # type: ignore[import-untyped]
    from pymilvus import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        code = f"its code {int(error.code)}" if isinstance(error, MilvusException) else "the connection broke"
        raise BackendError(f"Milvus could not {to} ({code})") from None


def _plan(config: KindConfig, fetched: int = 0, *, most: bool = False) -> tuple[tuple[str, dict], dict[str, int]]:
    """Milvus's index for a kind, and what a search may spend; with `most`, as much as it can."""
    if config.kind == "hnsw":
        built = {"M": config.links, "efConstruction": config.build_effort}
        return ("HNSW", built), {"ef": _MOST_EFFORT if most else max(config.effort, fetched)}
    if config.kind == "ivf_sq8":
        lists = config.lists or _LISTS
        return ("IVF_SQ8", {"nlist": lists}), {"nprobe": lists if most else config.probes}
    return ("FLAT", {}), {}


def _cosines(query: np.ndarray, hits: Any) -> np.ndarray:
    vectors: np.ndarray = np.array([hit["entity"]["vector"] for hit in hits], np.float32).reshape(-1, len(query))
    return np.asarray(vectors @ query / np.linalg.norm(vectors, axis=1))


def _allowed_ids(allowed: np.ndarray) -> np.ndarray:
    asked = np.asarray(allowed)
    if asked.ndim != 1 or (asked.size and asked.dtype.kind not in "biu"):
        raise DataError("allowed: wanted ids, or a truth value per id")
    return np.flatnonzero(asked) if asked.dtype.kind == "b" else np.unique(asked.astype(np.int64))


def _expressions(ids: np.ndarray | None) -> list[str]:
    """Expressions that together mean these ids, each of them once; None: all."""
    if ids is None:
        return [""]
    return [f"id in {ids[start : start + _MOST_IDS].tolist()}" for start in range(0, len(ids), _MOST_IDS)]


def _ties(scores: np.ndarray, ids: np.ndarray, k: int) -> bool:
    """Whether what was not fetched might tie with the last result."""
    return scores.shape[1] > k and bool(((ids[:, -1] >= 0) & (scores[:, -1] + _TIE >= scores[:, k - 1])).any())
