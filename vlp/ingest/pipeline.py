"""Sources to shards: load, read, split, encode in a pool of processes; write in one, in the source's order."""

import json
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vlp import log
from vlp.config import Config
from vlp.data import open_shards
from vlp.data.manifest import CODE_VERSION, Manifest, is_shard_folder
from vlp.data.writer import JPEG_QUALITY, EncodedStudy, ImageFormat, ShardWriter, refuse_foreign_folder
from vlp.errors import DataError
from vlp.ingest.folder import FolderSource
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.preparation import Preparation, prepare
from vlp.ingest.source import Source, StudyFault
from vlp.ingest.splits import Splits

AnySource = Annotated[PhantomSource | FolderSource, Field(discriminator="kind")]
"""Every kind of archive there is; a new one is a file of its own and a name here."""

_LOOK_AHEAD = 4
"""Units per worker that may be under way or waiting for their turn, which bounds memory."""
_SHOWN_FAULTS = 5
_logger = log.get_logger(__name__)


class IngestConfig(Config):
    """From one archive to one folder of shards."""

    source: AnySource
    output: Path
    """Folder of the shards; replaced if it holds shards already."""
    samples_per_shard: Annotated[int, Field(ge=1)] = 1000
    image_format: ImageFormat = "jpg"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = JPEG_QUALITY
    max_side_px: Annotated[int, Field(ge=16)] | None = None
    """Larger images are made smaller until their longer side has this length; null keeps their size."""
    splits: Splits = Splits()
    """For persons to whom the archive gives no split."""
    sentences_from_labels: bool = True
    """Whether studies with labels and no report get sentences made from the labels (marked as made so)."""
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes; null for one per core, 0 for none but this one."""
    error_budget: Annotated[float, Field(ge=0.0, le=1.0)] = 0.001
    """Largest share of studies that may be left out because they are damaged."""

    def recipe(self) -> dict[str, Any]:
        """What decides the content of the shards; where they go and how fast does not."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude={"output", "workers", "error_budget"}))
        return values

    def preparation(self) -> Preparation:
        """What is done to each study."""
        return Preparation(
            max_side_px=self.max_side_px,
            image_format=self.image_format,
            jpeg_quality=self.jpeg_quality,
            splits=self.splits,
            sentences_from_labels=self.sentences_from_labels,
        )


def ingest(config: IngestConfig, *, output: Path | None = None, again: bool = False) -> Manifest:
    """Makes the shards `config` describes and returns their manifest.

    A folder that the same recipe, archive and version made before is left as it is, unless `again`.

    Raises:
        DataError: for an empty archive, more damaged studies than the budget allows, studies none of which has a
            sentence, or an output folder that holds something else.  Then nothing is left behind.
    """
    folder = output or config.output
    refuse_foreign_folder(folder)
    fingerprint = config.source.fingerprint()
    done = None if again else _finished(folder, config, fingerprint)
    if done is not None:
        _logger.info("%s: these shards are already made; nothing to do", folder)
        return done
    units = config.source.units()
    if not units:
        raise DataError(f"source {config.source.name}: the archive is empty")
    writer = ShardWriter(
        folder,
        samples_per_shard=config.samples_per_shard,
        image_format=config.image_format,
        salt=config.splits.salt,
        recipe=config.recipe(),
        source_fingerprint=fingerprint,
    )
    workers = min(_num_workers(config), len(units))
    with writer:
        tally = _Tally(config.error_budget)
        items = _results(config.source, units, config.preparation(), workers)
        for item in log.progress(items, description=f"sharding {config.source.name}", unit="studies"):
            if isinstance(item, StudyFault):
                tally.fault(item)
            else:
                tally.study(item)
                writer.write(item)
        tally.judge()
        writer.faults.update(tally.faults)
    assert writer.manifest is not None
    tally.report()
    return writer.manifest


@dataclass(slots=True)
class _Tally:
    """Counts what came, and says when too much of it is damaged or mute."""

    error_budget: float
    faults: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)
    studies: int = 0
    mute: int = 0

    def fault(self, fault: StudyFault) -> None:
        self.faults[fault.code] += 1
        if len(self.shown) < _SHOWN_FAULTS:
            self.shown.append(fault.message)

    def study(self, encoded: EncodedStudy) -> None:
        self.studies += 1
        self.mute += not encoded.study.sentences

    def judge(self) -> None:
        bad = self.faults.total()
        total = self.studies + bad
        if total == 0:
            raise DataError("the archive holds no study")
        if _too_many(bad, self.studies, self.error_budget):
            counts = ", ".join(f"{count} {code}" for code, count in self.faults.most_common())
            raise DataError(
                f"{bad} of {total} studies cannot be used ({counts}), more than error_budget {self.error_budget:g} "
                f"allows; first: {self.shown[0]}"
            )
        if self.mute == self.studies:
            raise DataError(
                f"none of the {self.studies} studies has a sentence to train on; "
                "the archive needs reports, or labels with sentences_from_labels: true"
            )

    def report(self) -> None:
        if self.mute:
            _logger.info("%d of %d studies have no sentence; training leaves them out", self.mute, self.studies)
        if self.faults:
            _logger.warning("%d studies left out: %s", self.faults.total(), "; ".join(self.shown))


def _finished(folder: Path, config: IngestConfig, fingerprint: str) -> Manifest | None:
    if not is_shard_folder(folder):
        return None
    try:
        manifest = open_shards(folder).manifest
    except DataError:
        return None  # damaged: made again
    same = (
        manifest.recipe == config.recipe()
        and manifest.source_fingerprint == fingerprint
        and manifest.vlp_version == CODE_VERSION
        and not _too_many(sum(manifest.faults.values()), manifest.num_studies, config.error_budget)
    )
    return manifest if same else None


def _too_many(faults: int, studies: int, error_budget: float) -> bool:
    return faults > error_budget * (studies + faults)


def _num_workers(config: IngestConfig) -> int:
    return len(os.sched_getaffinity(0)) if config.workers is None else config.workers


def _results(
    source: Source, units: Sequence[str], preparation: Preparation, workers: int
) -> Iterator[EncodedStudy | StudyFault]:
    """The prepared studies of all units, in order, whoever prepared them."""
    if workers <= 1:
        for unit in units:
            yield from _prepare_unit(source, unit, preparation)
        return
    # Spawned, not forked: the calling program may hold threads and devices.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(source, preparation))
    try:
        waiting: deque[Future[list[EncodedStudy | StudyFault]]] = deque()
        for unit in units:
            waiting.append(pool.submit(_work, unit))
            if len(waiting) >= workers * _LOOK_AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError("a worker process died, perhaps for lack of memory; try fewer workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_unit(source: Source, unit: str, preparation: Preparation) -> Iterator[EncodedStudy | StudyFault]:
    try:
        for loaded in source.load(unit):
            yield loaded if isinstance(loaded, StudyFault) else prepare(loaded, preparation)
    except DataError as error:
        yield StudyFault(code="unreadable_unit", message=str(error))


_worker: tuple[Source, Preparation] | None = None


def _start_worker(source: Source, preparation: Preparation) -> None:
    global _worker
    import cv2

    cv2.setNumThreads(0)
    _worker = source, preparation


def _work(unit: str) -> list[EncodedStudy | StudyFault]:
    assert _worker is not None
    source, preparation = _worker
    return list(_prepare_unit(source, unit, preparation))
