"""The shards that loaders are compared on: drawn radiographs with reports, one frontal image a study.

Pictures are phantoms with film noise of their own, so that a 512 px JPEG of quality 95 takes about 60 KB and a 1,024 px
one about four times that.  A few hundred are drawn; further studies show them again under other ids.
"""

from collections.abc import Iterator
from itertools import count, cycle, islice
from pathlib import Path

import cv2
import numpy as np

from vlp import log
from vlp.data.writer import JPEG_QUALITY, EncodedStudy, ShardWriter
from vlp.ingest.phantom.history import HistoryConfig, person
from vlp.ingest.phantom.prose import write_report
from vlp.ingest.phantom.rendering import render
from vlp.ingest.phantom.source import labels
from vlp.ingest.phantom.truth import StudyTruth
from vlp.ingest.preparation import Preparation, complete
from vlp.ingest.splits import Splits
from vlp.records import FRONTAL, ImageFile, Person, Report, Study

_DRAWN_PX = 512
_NOISE = {512: 1.4, 1024: 2.1}
"""Standard deviation in grey levels, by the side in pixels: what makes a file as large as it should be."""
_PHANTOMS, _PICTURES = 24, 300
"""Drawn ones, and how many different files are made of them by noise."""
SHARDS = 8


def write_shards(folder: Path, *, size_px: int, studies: int) -> Path:
    """Shards of that many training studies, with square images of `size_px`; returns their folder."""
    per_shard = -(-studies // SHARDS)
    everything = Preparation(splits=Splits(train=1.0, val=0.0, test=0.0))
    pictures = cycle(_pictures(size_px, min(studies, _PICTURES)))
    with ShardWriter(folder, samples_per_shard=per_shard) as writer:
        made = zip(islice(_truths(), studies), pictures, strict=False)
        for truth, picture in log.progress(made, description=f"{size_px} px studies", total=studies, unit="studies"):
            study, origin = complete(_study(truth, size_px), everything)
            encoded = EncodedStudy(study=study, images=(picture,), image_format="jpg", labels_origin=origin)
            writer.write(encoded)
    return folder


def _truths() -> Iterator[StudyTruth]:
    """Phantom studies, patient after patient."""
    for number in count():
        yield from person(number, seed=0, settings=HistoryConfig())


def _study(truth: StudyTruth, size_px: int) -> Study:
    return Study(
        id=truth.id,
        person=Person(id=truth.person),
        images=(ImageFile(id=f"{truth.id}-pa", path=None, view="PA", rows=size_px, columns=size_px),),
        report=Report(text=write_report(truth)),
        labels=labels(truth),
        source="phantom",
        license="Apache-2.0 (generated)",
        synthetic=True,
    )


def _pictures(size_px: int, number: int) -> list[bytes]:
    rng = np.random.default_rng(0)
    phantoms = [_phantom(truth, size_px) for truth in islice(_truths(), min(number, _PHANTOMS))]
    sigma = _NOISE.get(size_px, _NOISE[512])
    files = []
    for phantom in islice(cycle(phantoms), number):
        noise = sigma * rng.standard_normal(phantom.shape, dtype=np.float32)
        pixels = np.clip(phantom + noise, 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    return files


def _phantom(truth: StudyTruth, size_px: int) -> np.ndarray:
    frontal = next(view.pixels for view in render(truth, size_px=_DRAWN_PX).views if view.view in FRONTAL)
    return cv2.resize(frontal, (size_px, size_px), interpolation=cv2.INTER_CUBIC).astype(np.float32)
