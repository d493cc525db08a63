"""Filling a store: every image of an archive through the model once, shard by shard, in as many jobs as one likes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import numpy as np
from jaxtyping import Float32

from vlp.data.manifest import SPLITS, Shard
from vlp.data.reader import ShardReader
from vlp.data.transforms import SeenImage
from vlp.errors import ConfigError, DataError
from vlp.inference.calibration import preprocess_digest
from vlp.ingest.partition import Part
from vlp.log import get_logger, progress
from vlp.records import Certainty, Region, Study
from vlp.reports.findings import NO_FINDING, VOCABULARY, canonical, sentence_text
from vlp.retrieval.store.folder import Plan, VectorStore, begin, finish
from vlp.retrieval.store.parts import held, read_part, write_part
from vlp.retrieval.store.rows import row_facts, table_of
from vlp.retrieval.store.vectors import (
    VectorKind,
    attended_vectors,
    image_fingerprint,
    mean_vectors,
    region_weights,
    weighted_vectors,
)

if TYPE_CHECKING:
    from vlp.inference.engine import Engine, Looked

Item = TypeVar("Item")
Made = TypeVar("Made")

KINDS: tuple[VectorKind, ...] = get_args(VectorKind)
USUAL_KINDS: tuple[VectorKind, ...] = ("global", "view")
_BATCH_IMAGES = 32

logger = get_logger(__name__)


def embed(
    engine: "Engine",
    reader: ShardReader,
    folder: Path | str,
    *,
    kinds: Sequence[VectorKind] = USUAL_KINDS,
    splits: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
    part: Part | None = None,
) -> VectorStore:
    """Fills a store with the vectors of an archive, going on where it was left.

    A shard's vectors are there whole or not at all; shards that are there are not looked at again.

    Args:
        engine: of the model that makes the vectors; it must come from a checkpoint.
        reader: of the archive.
        folder: of the store; made if it is not there.
        kinds: what is taken of the images; see `VectorKind`.
        splits: which of the archive's splits; None for all.
        findings: whose vectors are made where "finding" is among the kinds; None for all that the archive has labels
            for.
        part: makes only these shards, e.g. the third of sixteen; others make the rest.

    Returns:
        The store with the parts that are there; `missing` is empty if it is complete.

    Raises:
        CheckpointError: if the store is another model's, or the model gives no usable vectors.
        ConfigError: if the store is of another archive or holds other kinds, findings or splits.
        DataError: for an unknown split, kind or finding, no study in the splits, an image that cannot be read, or a
            folder that cannot be written.
    """
    target = Path(folder)
    plan = plan_of(engine, reader, kinds=kinds, splits=splits, findings=findings)
    shards = [shard for shard in reader.manifest.shards if shard.split in plan.splits and shard.samples]
    if not shards:
        raise DataError(f"{reader.folder}: no study to embed in the splits {', '.join(plan.splits)}")
    facts = begin(target, plan, [_name(shard) for shard in shards])
    own = shards if part is None else part.of(shards)
    to_do = [shard for shard in own if read_part(target, _name(shard)) is None]
    made = (key for shard in to_do for key in _make_part(engine, reader, target, plan, shard))
    for _ in progress(made, description="embedding", total=sum(len(shard.samples) for shard in to_do), unit="studies"):
        pass
    store = finish(target, facts)
    logger.info("%s: %d of %d parts are there", target, len(store.facts.parts), len(facts.names))
    return store


def plan_of(
    engine: "Engine",
    reader: ShardReader,
    *,
    kinds: Sequence[VectorKind] = USUAL_KINDS,
    splits: Sequence[str] | None = None,
    findings: Sequence[str] | None = None,
) -> Plan:
    """What a store with these vectors of the archive is; arguments and errors as in `embed`."""
    _refuse_unknown("kind", kinds, KINDS)
    if splits is not None:
        _refuse_unknown("split", splits, SPLITS)
    chosen = tuple(kind for kind in KINDS if kind in kinds)
    if findings is not None and "finding" not in chosen:
        raise ConfigError("findings are named, but vectors of findings are not asked for; add the kind finding")
    return Plan(
        checkpoint=engine.fingerprint,
        preprocess=preprocess_digest(engine.model.config.preprocess),
        shards=reader.digest(),
        dim=engine.model.config.dim,
        kinds=chosen,
        findings=_findings(reader, findings) if "finding" in chosen else (),
        splits=tuple(split for split in SPLITS if splits is None or split in splits),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Some studies and all their images."""

    keys: tuple[str, ...]
    studies: tuple[Study, ...]
    places: tuple[tuple[int, int], ...]
    """Per image (number of its study here, number of the image in the study)."""
    seen: tuple[SeenImage, ...]

    @classmethod
    def read(cls, engine: "Engine", reader: ShardReader, keys: Sequence[str]) -> "_Batch":
        """Reads and decodes them."""
        places = tuple((number, image) for number, key in enumerate(keys) for image in range(reader.num_images(key)))
        return cls(
            keys=tuple(keys),
            studies=tuple(reader.study(key) for key in keys),
            places=places,
            seen=tuple(engine.see(reader, keys[number], image) for number, image in places),
        )

    def facts(self) -> list[dict[str, Any]]:
        """What is known of each image."""
        return [
            row_facts(self.studies[number], self.keys[number], image, fingerprint=image_fingerprint(seen))
            for (number, image), seen in zip(self.places, self.seen, strict=True)
        ]

    def regions(self) -> list[list[Region]]:
        """The regions of each image."""
        return [
            [region for region in study.regions if region.image == study.images[image].id]
            for study, image in ((self.studies[number], image) for number, image in self.places)
        ]


@dataclass(slots=True)
class _Collected:
    """A part's vectors by kind, as they come."""

    rows: dict[VectorKind, list[dict[str, Any]]]
    vectors: dict[VectorKind, list[np.ndarray]]
    unseen: int = field(default=0)
    """Regions of which the model was shown nothing."""

    def add(
        self, kind: VectorKind, named: Iterable[tuple[dict[str, Any], str]], vectors: Float32[np.ndarray, "row dim"]
    ) -> None:
        """Adds the vectors of one kind with what is known of each, and what was taken."""
        self.rows[kind].extend(facts | {"kind": kind, "what": what} for facts, what in named)
        self.vectors[kind].append(vectors.astype(np.float16))


def _make_part(engine: "Engine", reader: ShardReader, folder: Path, plan: Plan, shard: Shard) -> Iterator[str]:
    """Makes one part and gives the keys of its studies as they are done."""
    name = _name(shard)
    with held(folder, name):
        if read_part(folder, name) is not None:  # another process has just made it
            return
        collected = _Collected({kind: [] for kind in plan.kinds}, {kind: [] for kind in plan.kinds})
        groups = _groups([(sample.key, len(sample.views)) for sample in shard.samples])
        for batch in _ahead(lambda keys: _Batch.read(engine, reader, keys), groups):
            _collect(engine, batch, plan, collected)
            yield from batch.keys
        if collected.unseen:
            logger.warning("%s: the model was shown nothing of %d regions; they have no vector", name, collected.unseen)
        empty = np.zeros((0, plan.dim), dtype=np.float16)
        write_part(
            folder,
            name,
            np.concatenate([empty, *(block for blocks in collected.vectors.values() for block in blocks)]),
            table_of([row for rows in collected.rows.values() for row in rows]),
            counts={kind: len(rows) for kind, rows in collected.rows.items()},
        )


def _collect(engine: "Engine", batch: _Batch, plan: Plan, collected: _Collected) -> None:
    looked = engine.looked(batch.seen)
    facts, vectors = batch.facts(), engine.vectors(looked.features)
    for kind in plan.kinds:
        if kind == "global":
            first = [row for row, (_, image) in enumerate(batch.places) if image == 0]
            means = mean_vectors(vectors, [number for number, _ in batch.places])
            collected.add(kind, [(facts[row], "") for row in first], means)
        elif kind == "view":
            collected.add(kind, [(row, "") for row in facts], vectors)
        elif kind == "finding":
            sentences = [sentence_text(finding, Certainty.PRESENT) for finding in plan.findings]
            attended = attended_vectors(engine, looked.features, sentences).transpose(1, 0, 2)
            named = [(row, finding) for row in facts for finding in plan.findings]
            collected.add(kind, named, attended.reshape(-1, plan.dim))
        else:
            _collect_regions(engine, batch, looked, facts, collected)


def _collect_regions(
    engine: "Engine", batch: _Batch, looked: "Looked", facts: list[dict[str, Any]], collected: _Collected
) -> None:
    named: list[tuple[dict[str, Any], str]] = []
    weights: list[list[np.ndarray]] = []
    for row, regions in enumerate(batch.regions()):
        weights.append([])
        for region in regions:
            shares = region_weights(region.geometry, looked.placements[row], looked.features[row : row + 1])
            if shares.any():
                weights[-1].append(shares)
                named.append((facts[row], region.finding))
            else:
                collected.unseen += 1
    collected.add("region", named, weighted_vectors(engine, looked.features, weights))


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """What `make` makes of each item, in order; the next one is made while the caller works on the one before."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: Future[Made] | None = None
        for item in items:
            coming = pool.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()


def _groups(images: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Keys (of (key, number of images)) in groups of at most `_BATCH_IMAGES` images, or of one study."""
    group: list[str] = []
    count = 0
    for key, number in images:
        if group and count + number > _BATCH_IMAGES:
            yield group
            group, count = [], 0
        group.append(key)
        count += number
    if group:
        yield group


def _findings(reader: ShardReader, named: Sequence[str] | None) -> tuple[str, ...]:
    if named is None:
        labelled = {finding for counts in reader.manifest.splits.values() for finding in counts.findings}
        found = [finding for finding in VOCABULARY if finding in labelled and finding != NO_FINDING]
    else:
        names = {name: canonical(name) for name in named}
        unknown = [name for name, known in names.items() if known is None]
        if unknown:
            raise DataError(f"no finding {unknown[0]!r} in the vocabulary; see vlp prompts list")
        wanted = set(names.values())
        found = [finding for finding in VOCABULARY if finding in wanted]
    if not found:
        raise DataError(f"{reader.folder}: no finding to embed: the archive has no labels; name findings")
    return tuple(found)


def _refuse_unknown(what: str, named: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in named if name not in known]
    if unknown or not named:
        word = f"no {what} {unknown[0]!r}" if unknown else f"no {what} is named"
        raise DataError(f"{word}; there are {', '.join(known)}")


def _name(shard: Shard) -> str:
    return shard.name.removesuffix(".tar")
