"""Why a case was found: what the two images have in common by the model's own vectors, by words, and by labels.

Two maps per case.  Asked about a finding, both are the map of "There is F.".  Else each image's patches are compared
with the vector the other one was compared by: the case's patches with the query's vector, the query's patches with the
case's.  Where an image's vector is the mean of its patches' (see `SimilarityAttention.embed_images`), the mean of such
a map over the length of that mean *is* the score: the map says which patches it comes from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from vlp.data.reader import ShardReader
from vlp.data.transforms import SeenImage
from vlp.errors import CheckpointError, DataError
from vlp.inference.picture import pixels_of
from vlp.log import progress
from vlp.records import Box, Certainty, Sentence, Study
from vlp.reports.findings import NO_FINDING, sentence_text
from vlp.retrieval.search import Hit
from vlp.tensors import ImageFeatures, Placement

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

_AT_ONCE = 8
"""Cases whose patches are held at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was searched by, as far as there is something to show of it."""

    pixels: UInt8[np.ndarray, "rows columns"] | None = None
    """The image as stored; None where only words were given."""
    seen: SeenImage | None = None
    """The same as the model sees it, where it came from shards; None: it is made from `pixels`."""
    text: str | None = None
    finding: str | None = None
    """The finding that had to look alike; None: the images as a whole."""
    box: Box | None = None
    """The part of `pixels` that was searched by, in its pixels; goes with `vector`."""
    vector: Float[np.ndarray, " dim"] | None = None
    """The unit vector the index was searched with.  None: that of the image, of the text, or their mean."""
    present: tuple[str, ...] | None = None
    """Findings that its labels say are there; None where it has no labels."""
    key: str | None = None
    """Its own shard key, where it has one."""

    def __post_init__(self) -> None:
        assert self.pixels is not None or self.text is not None, "a query is an image, a text, or both"
        assert self.box is None or (self.pixels is not None and self.vector is not None), "a box has its own vector"

    @classmethod
    def of_study(cls, reader: ShardReader, key: str, *, image: int = 0, engine: "Engine | None" = None) -> "Asked":
        """An image of a study in shards; give the engine if there is one, so that it sees what the index was built of.

        Raises:
            DataError: if there is no such image, or it cannot be read.
        """
        return cls(
            pixels=reader.image(key, image),
            seen=engine.see(reader, key, image) if engine is not None else None,
            present=_present(reader.study(key)),
            key=key,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarityMap:
    """Cosine of every patch of one image with one vector."""

    values: Float[np.ndarray, "grid_rows grid_columns"]
    placement: Placement
    """The way to the image's own pixels."""

    def resized(self, rows: int, columns: int) -> Float[np.ndarray, "rows columns"]:
        """The map over the image as it is at another size; NaN where the model did not look."""
        (x_x, x_y, x_0), (y_x, y_y, y_0) = self.placement.matrix
        down, across = self.placement.original[0] / rows, self.placement.original[1] / columns
        matrix = ((x_x * across, x_y * down, x_0), (y_x * across, y_y * down, y_0))
        return replace(self.placement, original=(rows, columns), matrix=matrix).map_to_original(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedSentence:
    """The sentence of a case that lies closest to the query."""

    text: str
    """As written in the report; as made from the labels where nobody wrote one."""
    similarity: float
    """Cosine with the query's vector of what the model reads for it; a text and an image lie further apart than two
    images do."""
    made_from_labels: bool

    @property
    def words(self) -> str:
        """The sentence in quotes, and what is to be known of it."""
        made = ", made from labels" if self.made_from_labels else ""
        return f"\u201c{self.text}\u201d (cosine {self.similarity:.2f}{made})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What the labels of query and case have in common.  "No finding" counts as none, as in `vlp evaluate`."""

    shared: tuple[str, ...]
    only_query: tuple[str, ...]
    only_case: tuple[str, ...]

    @property
    def jaccard(self) -> float | None:
        """Findings of both over findings of either; None where neither has one."""
        return len(self.shared) / self._either if self._either else None

    @property
    def words(self) -> str:
        """The same for a person to read."""
        if self.jaccard is None:
            return "neither is labelled with a finding"
        return f"label overlap {self.jaccard:.2f}: {len(self.shared)} of {self._either} in common"

    @property
    def _either(self) -> int:
        return len(self.shared) + len(self.only_query) + len(self.only_case)


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why one case was found."""

    key: str
    overlap: Overlap | None
    """None where the query has no labels."""
    query_map: SimilarityMap | None = None
    """None where the query is no image, and without a model."""
    case_map: SimilarityMap | None = None
    """None without a model."""
    sentence: MatchedSentence | None = None
    """None where the case has no sentence, and without a model."""
    report: str | None = None
    """The case's report as written."""


def explain(
    asked: Asked, hits: Sequence[Hit], reader: ShardReader, *, engine: "Engine | None" = None
) -> tuple[Why, ...]:
    """Why each of the hits was found, in their order.

    The matched sentence is the one with the highest cosine among those about the finding that was asked for; where
    there is none, among those about any finding; else among all.  What the model cannot read (no word, more tokens
    than it takes) is passed over.

    Args:
        asked: what was searched by.
        hits: what was found.
        reader: the shards the cases lie in.
        engine: of the model that made the index; None: no maps and no sentences.

    Raises:
        DataError: if the shards do not hold a case, or its image cannot be read.
        CheckpointError: if the model's maps are no numbers.
    """
    studies = [_study(reader, hit.key) for hit in hits]
    plain = [
        Why(
            key=hit.key, overlap=overlap(asked.present, hit.present), report=study.report.text if study.report else None
        )
        for hit, study in zip(hits, studies, strict=True)
    ]
    if engine is None or not hits:
        return tuple(plain)
    query = _Query.of(engine, asked)
    looked = _maps(engine, query, reader, hits)
    pairs = list(progress(looked, description="comparing", total=len(hits), unit="cases"))
    return tuple(
        replace(why, query_map=ours, case_map=theirs, sentence=_closest(engine, query.vector, study, asked.finding))
        for why, (ours, theirs), study in zip(plain, pairs, studies, strict=True)
    )


def overlap(query: Sequence[str] | None, case: Sequence[str]) -> Overlap | None:
    """What two lists of findings have in common, each part in alphabetical order; None if the query's is not known."""
    if query is None:
        return None
    ours, theirs = set(query) - {NO_FINDING}, set(case) - {NO_FINDING}
    return Overlap(
        shared=tuple(sorted(ours & theirs)),
        only_query=tuple(sorted(ours - theirs)),
        only_case=tuple(sorted(theirs - ours)),
    )


def vector_maps(
    engine: "Engine", vectors: Float[np.ndarray, "vector dim"], features: ImageFeatures
) -> Float[np.ndarray, "vector image grid_rows grid_columns"]:
    """Cosine of unit vectors with every patch of every image: `Engine.maps_of` for what is no text.

    Patches that show only padding repeat the nearest patch of the image.

    Raises:
        CheckpointError: if they are no numbers.
    """
    import torch

    from vlp.kernels import similarity_maps

    with torch.inference_mode():
        given = torch.from_numpy(np.asarray(vectors, dtype=np.float32)).to(features.patches.device)
        flat = similarity_maps(given, engine.model.scorer.unit(features.patches))
    values: np.ndarray = flat.unflatten(2, features.grid).cpu().numpy()
    if not np.isfinite(values).all():
        raise CheckpointError("the model's maps are not finite numbers; its training may have diverged")
    if features.padding is not None:
        for index, padding in enumerate(features.padding.cpu().numpy().reshape(-1, *features.grid)):
            values[:, index] = _edge_repeated(values[:, index], padding)
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class _Query:
    """The query as the model has it."""

    vector: Float[np.ndarray, " dim"]
    text: str | None
    """What both maps are of; None: of the other one's vector."""
    features: ImageFeatures | None
    placement: Placement | None

    @classmethod
    def of(cls, engine: "Engine", asked: Asked) -> "_Query":
        features = placement = None
        vectors = []
        if asked.pixels is not None:
            features, (placement,) = engine.features([asked.seen or pixels_of(asked.pixels)])
            vectors.append(engine.vectors(features)[0])
        if asked.text is not None:
            vectors.append(engine.encode_text([asked.text])[0])
        mean = np.mean(vectors, axis=0)
        return cls(
            vector=mean / np.linalg.norm(mean) if asked.vector is None else np.asarray(asked.vector, np.float32),
            text=sentence_text(asked.finding, Certainty.PRESENT) if asked.finding is not None else None,
            features=features,
            placement=placement,
        )


def _maps(
    engine: "Engine", query: _Query, reader: ShardReader, hits: Sequence[Hit]
) -> Iterator[tuple[SimilarityMap | None, SimilarityMap]]:
    """(the query's map, the case's map) of every hit."""
    for start in range(0, len(hits), _AT_ONCE):
        part = hits[start : start + _AT_ONCE]
        features, placements = engine.features([engine.see(reader, hit.key, hit.image) for hit in part])
        if query.text is None:
            theirs = vector_maps(engine, query.vector[None], features)[0]
        else:
            theirs = engine.maps_of([query.text], features)[0]
        ours = _query_maps(engine, query, features)
        for row, placement in enumerate(placements):
            yield ours[row], SimilarityMap(values=theirs[row], placement=placement)


def _query_maps(engine: "Engine", query: _Query, cases: ImageFeatures) -> list[SimilarityMap | None]:
    count = len(cases.pooled)
    if query.features is None or query.placement is None:
        return [None] * count
    if query.text is None:
        values = vector_maps(engine, engine.vectors(cases), query.features)[:, 0]
    else:
        values = np.repeat(engine.maps_of([query.text], query.features)[:, 0], count, axis=0)
    return [SimilarityMap(values=grid, placement=query.placement) for grid in values]


def _edge_repeated(values: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Bars around an image leave a rectangle of patches, whose outermost ones are carried on over the bars."""
    rows, columns = np.flatnonzero(~padding.all(axis=1)), np.flatnonzero(~padding.all(axis=0))
    if not rows.size or not padding.any():
        return values
    top, left, bottom, right = rows[0], columns[0], rows[-1] + 1, columns[-1] + 1
    bars = ((0, 0), (top, padding.shape[0] - bottom), (left, padding.shape[1] - right))
    return np.pad(values[:, top:bottom, left:right], bars, mode="edge")


def _closest(engine: "Engine", vector: np.ndarray, study: Study, finding: str | None) -> MatchedSentence | None:
    readable = {sentence.text: sentence for sentence in reversed(_readable(engine, study.sentences))}
    candidates = (
        [sentence for sentence in readable.values() if finding is not None and sentence.finding == finding]
        or [sentence for sentence in readable.values() if sentence.finding is not None]
        or list(readable.values())
    )
    if not candidates:
        return None
    similarities = engine.encode_text([sentence.text for sentence in candidates]) @ vector
    # The earlier of two that say the same in other words: rounding must not decide it.
    best = min(
        range(len(candidates)), key=lambda row: (-round(float(similarities[row]), 6), candidates[row].start, row)
    )
    chosen = candidates[best]
    written = study.report is not None and chosen.origin == "report"
    text = study.report.text[chosen.start : chosen.end] if study.report is not None and written else chosen.text
    return MatchedSentence(
        text=" ".join(text.split()), similarity=float(similarities[best]), made_from_labels=chosen.origin == "labels"
    )


def _readable(engine: "Engine", sentences: Sequence[Sentence]) -> list[Sentence]:
    """The sentences that the text tower takes."""

    def reads(asked: Sequence[Sentence]) -> bool:
        try:
            engine.text_vectors([sentence.text for sentence in asked])
        except DataError:
            return False
        return True

    if not sentences or reads(sentences):  # in one go wherever all of them can be read
        return list(sentences)
    return [sentence for sentence in sentences if reads([sentence])]


def _study(reader: ShardReader, key: str) -> Study:
    try:
        reader.sample(key)
    except DataError:
        raise DataError(
            f"{reader.folder}: does not hold a case that was found; give the shards the index was built from"
        ) from None
    return reader.study(key)


def _present(study: Study) -> tuple[str, ...] | None:
    """Findings that are there; None for a study nobody labelled."""
    if not study.labels:
        return None
    return tuple(finding for finding, certainty in study.labels.items() if certainty is Certainty.PRESENT)
