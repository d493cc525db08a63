"""An index of cases: one unit vector per image, and beside it what is known of the study it belongs to.

A folder: `index.faiss` (exact inner products of unit vectors, which are cosines), `cases.parquet` (one row per vector,
in the same order), `index.json` (which model made the vectors, counts, checksums).  Nothing is read from a folder
whose files do not have the checksums its `index.json` states.
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from pydantic import Field, ValidationError

import vlp
from vlp.config import Config
from vlp.data.reader import ShardReader
from vlp.data.transforms import SeenImage
from vlp.errors import BackendError, DataError
from vlp.log import get_logger, progress
from vlp.records import Certainty, Split, Study, View
from vlp.retrieval.search import Hits, find

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

FILE_NAME = "index.json"
_VECTORS, _CASES = "index.faiss", "cases.parquet"
_BATCH_IMAGES = 32
_UNIT_TOLERANCE = 1e-3

logger = get_logger(__name__)


class IndexFacts(Config):
    """What an index says of itself."""

    format: Literal["vlp-index"] = "vlp-index"
    schema_version: Literal[1] = 1
    vlp_version: str
    checkpoint: str
    """Fingerprint of the model that made the vectors; only its queries mean anything here."""
    dim: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    studies: Annotated[int, Field(ge=1)]
    persons: Annotated[int, Field(ge=1)]
    splits: dict[Split, int]
    """Studies by split."""
    synthetic: bool
    """Whether any study was drawn by a program."""
    sha256: dict[str, str]
    """Checksum by file."""


class Index:
    """An open index.  Searching never changes it."""

    def __init__(self, folder: Path, facts: IndexFacts, vectors: Any, cases: pd.DataFrame) -> None:
        """Takes the parts of an index folder; see `open_index`."""
        self.folder = folder
        self.facts = facts
        self.cases = cases
        """One row per vector: whose image it is, and what is known of its study (see `_case`)."""
        self._vectors = vectors
        places = zip(cases["key"], cases["image"], strict=True)
        self._rows = {(str(key), int(image)): row for row, (key, image) in enumerate(places)}

    def __len__(self) -> int:
        """How many images the index holds."""
        return len(self.cases)

    def vector(self, key: str, image: int = 0) -> Float[np.ndarray, " dim"]:
        """The stored unit vector of an image of a study.

        Raises:
            DataError: if the index does not hold it.
        """
        row = self._rows.get((key, image))
        if row is None:
            raise DataError(f"{self.folder}: holds no image {image} of a study with this key")
        vector: np.ndarray = self._vectors.reconstruct(row)
        return vector

    def person(self, key: str) -> str | None:
        """Whose study it is; None if the index does not hold it."""
        row = self._rows.get((key, 0))
        return None if row is None else str(self.cases["person"].iloc[row])

    def search(
        self,
        query: Float[np.ndarray, " dim"],
        *,
        k: int = 5,
        exclude_person: str | None = None,
        exclude_keys: Sequence[str] = (),
    ) -> Hits:
        """The `k` studies closest to a unit vector, each by its best view; fewer where the index holds fewer.

        Ties are decided by (-score rounded to 1e-6, key), never by the order of the index.

        Args:
            query: from `Engine.embed` or `Engine.encode_text` of the model that made this index.
            k: how many studies.
            exclude_person: whose studies are left out; pass the query's own person whenever it is known.
            exclude_keys: studies that are left out.

        Raises:
            DataError: for a query that is no finite unit vector of this index's width, or k below 1.
        """
        vector = self._checked(query)
        if k < 1:
            raise DataError(f"k must be at least 1, not {k}")
        excluded = self.cases["key"].isin(list(exclude_keys)).to_numpy()
        if exclude_person is not None:
            excluded = excluded | (self.cases["person"] == exclude_person).to_numpy()
        return find(self._nearest, vector, self.cases, k=k, excluded=excluded)

    def _nearest(self, vector: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = self._vectors.search(vector[None], count)
        return scores[0], rows[0]

    def _checked(self, query: np.ndarray) -> np.ndarray:
        vector = np.ascontiguousarray(query, dtype=np.float32)
        if vector.shape != (self.facts.dim,):
            raise DataError(f"the query has shape {list(vector.shape)}, this index vectors of {self.facts.dim} numbers")
        if not np.isfinite(vector).all():
            raise DataError("the query vector is not finite")
        if abs(float(np.linalg.norm(vector)) - 1.0) > _UNIT_TOLERANCE:
            raise DataError("the query vector is not of unit length")
        return vector


def build(engine: "Engine", reader: ShardReader, folder: Path | str, *, splits: Sequence[str] | None = None) -> Index:
    """Embeds every image of the given splits (None: of all) and writes the index, whole or not at all.

    An index that stands at `folder` is replaced; anything else there is refused.

    Raises:
        DataError: for an unknown split, if there is no study in the splits, a study's images cannot be read, or the
            folder holds something else.
        BackendError: if faiss is not installed.
    """
    faiss = _faiss()
    target = Path(folder)
    _refuse_foreign(target)
    wanted = _known(splits)
    keys = [key for split in wanted for key in reader.keys(split)]
    if not keys:
        raise DataError(f"{reader.folder}: no study to index in the splits {', '.join(wanted)}")
    cases, vectors = _embedded(engine, reader, keys)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.partial-") as name:
            partial = Path(name) / "index"
            partial.mkdir()
            faiss.write_index(index, str(partial / _VECTORS))
            cases.to_parquet(partial / _CASES, index=False)
            facts = _facts(engine, cases, vectors.shape[1], partial)
            (partial / FILE_NAME).write_text(facts.model_dump_json(indent=2) + "\n", encoding="utf-8")
            _take_place(partial, target)
    except OSError as error:
        raise DataError(f"{target}: cannot write the index: {error.strerror}") from None
    logger.info("index of %d images of %d studies: %s", facts.images, facts.studies, target)
    return Index(target, facts, index, cases)


def open_index(path: Path | str) -> Index:
    """The index in a folder, after checking that its files are the ones that were written.

    Raises:
        DataError: for a folder that holds no index, or one that is damaged.
        BackendError: if faiss is not installed.
    """
    faiss = _faiss()
    folder = Path(path)
    facts = _read_facts(folder)
    for name in (_VECTORS, _CASES):
        file = folder / name
        if not file.is_file() or _sha256(file) != facts.sha256.get(name):
            raise DataError(f"{file}: missing or changed since the index was built; run vlp index build again")
    vectors = faiss.read_index(str(folder / _VECTORS))
    cases = pd.read_parquet(folder / _CASES)
    if vectors.ntotal != len(cases) or vectors.d != facts.dim or facts.images != len(cases):
        raise DataError(f"{folder}: vectors and cases do not belong together; run vlp index build again")
    return Index(folder, facts, vectors, cases)


def _embedded(engine: "Engine", reader: ShardReader, keys: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray]:
    rows: list[dict[str, Any]] = []
    vectors: list[np.ndarray] = []
    waiting: list[SeenImage] = []
    for key in progress(keys, description="embedding", unit="studies"):
        study = reader.study(key)
        for image in range(reader.num_images(key)):
            rows.append(_case(key, image, study))
            waiting.append(engine.see(reader, key, image))
        if len(waiting) >= _BATCH_IMAGES or key == keys[-1]:
            vectors.append(engine.embed(waiting))
            waiting = []
    return pd.DataFrame(rows), np.ascontiguousarray(np.concatenate(vectors), dtype=np.float32)


def _case(key: str, image: int, study: Study) -> dict[str, Any]:
    view: View = study.images[image].view
    return {
        "key": key,
        "image": image,
        "person": study.person.id,
        "study": study.id,
        "view": view,
        "split": study.split,
        "present": [name for name, certainty in study.labels.items() if certainty is Certainty.PRESENT],
        "absent": [name for name, certainty in study.labels.items() if certainty is Certainty.ABSENT],
        "report": study.report.text if study.report is not None else None,
        "age": study.person.age,
        "sex": study.person.sex,
        "source": study.source,
        "synthetic": study.synthetic,
    }


def _facts(engine: "Engine", cases: pd.DataFrame, dim: int, folder: Path) -> IndexFacts:
    studies = cases.drop_duplicates("key")
    return IndexFacts(
        vlp_version=vlp.__version__,
        checkpoint=engine.fingerprint,
        dim=dim,
        images=len(cases),
        studies=len(studies),
        persons=int(studies["person"].nunique()),
        splits=dict(Counter(studies["split"])),
        synthetic=bool(studies["synthetic"].any()),
        sha256={name: _sha256(folder / name) for name in (_VECTORS, _CASES)},
    )


def _read_facts(folder: Path) -> IndexFacts:
    try:
        return IndexFacts.model_validate_json((folder / FILE_NAME).read_bytes())
    except OSError as error:
        raise DataError(f"{folder}: not an index: {FILE_NAME}: {error.strerror}; run vlp index build first") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{folder / FILE_NAME}: not an index of this version: {place}: {fault['msg']}") from None


def _refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and ((folder / FILE_NAME).is_file() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise DataError(f"{folder}: exists and is no index; name another folder or remove it yourself")


def _take_place(partial: Path, target: Path) -> None:
    if not target.exists():
        os.rename(partial, target)
        return
    old = partial.with_name("old")
    os.rename(target, old)
    try:
        os.rename(partial, target)
    except OSError:
        os.rename(old, target)
        raise


def _known(splits: Sequence[str] | None) -> tuple[Split, ...]:
    known: tuple[Split, ...] = get_args(Split)
    for split in splits or ():
        if split not in known:
            raise DataError(f"there is no split {split!r}; splits are {', '.join(known)}")
    return tuple(split for split in known if splits is None or split in splits)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise BackendError("searching needs faiss: pip install 'vlp[retrieval]' (or 'vlp[retrieval-gpu]')") from None
    return faiss
