"""What happens to one study between its archive and its shard: size, sentences, labels, split, encoding."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from vlp.data.schema import LabelsOrigin
from vlp.data.writer import EncodedStudy, ImageFormat, encode_study
from vlp.errors import DataError
from vlp.ingest.geometry import resized_mask, scaled_box
from vlp.ingest.source import StudyFault
from vlp.ingest.splits import Splits
from vlp.records import ImageFile, LoadedStudy, Mask, Region, Study
from vlp.reports import resolve
from vlp.reports.findings import sentence_from_label
from vlp.reports.language import is_foreign
from vlp.reports.readers import ReaderConfig, RulesReaderConfig, make_reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """What is done to each study; see `pipeline.IngestConfig`, which it is part of."""

    max_side_px: int | None = None
    image_format: ImageFormat = "jpg"
    jpeg_quality: int = 95
    splits: Splits = Splits()
    sentences_from_labels: bool = True
    reader: ReaderConfig = RulesReaderConfig()


def prepare(loaded: LoadedStudy, preparation: Preparation) -> EncodedStudy | StudyFault:
    """The study as it goes into a shard, or why it cannot."""
    try:
        resized = limit_size(loaded, preparation.max_side_px)
        study, labels_origin = complete(resized.study, preparation)
        return encode_study(
            LoadedStudy(study=study, pixels=resized.pixels),
            image_format=preparation.image_format,
            jpeg_quality=preparation.jpeg_quality,
            labels_origin=labels_origin,
        )
    except DataError as error:
        return StudyFault(code="unusable_study", message=str(error))


def complete(study: Study, preparation: Preparation) -> tuple[Study, LabelsOrigin]:
    """The study with sentences, labels and a split, and where its labels come from.

    Sentences are read from the report.  Where there is none, or it is in another language than English (its words are
    kept, with the language), they are made from the labels, if that is wanted.  The archive's own labels win; where
    it has none, the report's are read.

    Raises:
        DataError: if the report cannot be written as UTF-8.
        BackendError: if the reader of reports that is asked for cannot be had.
    """
    report, labels, sentences = study.report, study.labels, study.sentences
    labels_origin: LabelsOrigin = "source" if labels else "none"
    readable = False
    if report is not None:
        if not _is_text(report.text):
            raise DataError("the report holds half a character (a lone surrogate); its encoding is broken")
        # English is what an archive says that says nothing, so there the reader looks for itself.
        stated = None if report.language == "en" else report.language
        reading = make_reader(preparation.reader).read(report.text, language=stated)
        report = replace(report, language=reading.language)
        readable = not is_foreign(reading.language)
        sentences = sentences or (reading.sentences if readable else ())
        if readable and not labels:
            labels = resolve(reading.sentences)
            labels_origin = "report" if labels else "none"
    if not readable and not sentences and preparation.sentences_from_labels:
        sentences = tuple(sentence_from_label(finding, certainty) for finding, certainty in labels.items())
    split = preparation.splits.split_of(study)
    return replace(study, report=report, sentences=sentences, labels=labels, split=split), labels_origin


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def limit_size(loaded: LoadedStudy, max_side_px: int | None) -> LoadedStudy:
    """The study with its images, and everything measured in their pixels, brought down to `max_side_px`."""
    if max_side_px is None or all(max(pixels.shape) <= max_side_px for pixels in loaded.pixels):
        return loaded
    pixels = [_shrink(image, max_side_px) for image in loaded.pixels]
    images = tuple(_resized(image, small) for image, small in zip(loaded.study.images, pixels, strict=True))
    shapes = {image.id: (image.rows, image.columns) for image in images}
    before = {image.id: (image.rows, image.columns) for image in loaded.study.images}
    regions = tuple(_scaled(region, before[region.image], shapes[region.image]) for region in loaded.study.regions)
    return LoadedStudy(study=replace(loaded.study, images=images, regions=regions), pixels=tuple(pixels))


def _shrink(image: np.ndarray, max_side_px: int) -> np.ndarray:
    scale = max_side_px / max(image.shape)
    if scale >= 1.0:
        return image
    rows, columns = (max(1, round(side * scale)) for side in image.shape)
    small: np.ndarray = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
    return small


def _resized(image: ImageFile, pixels: np.ndarray) -> ImageFile:
    rows, columns = pixels.shape
    spacing = image.spacing_mm
    if spacing is not None:
        spacing = (spacing[0] * image.rows / rows, spacing[1] * image.columns / columns)
    return replace(image, rows=rows, columns=columns, spacing_mm=spacing)


def _scaled(region: Region, before: tuple[int, int], after: tuple[int, int]) -> Region:
    if before == after:
        return region
    geometry = region.geometry
    if isinstance(geometry, Mask):
        return replace(region, geometry=resized_mask(geometry, rows=after[0], columns=after[1]))
    down, across = after[0] / before[0], after[1] / before[1]
    if len(geometry) == 2:
        return replace(region, geometry=(geometry[0] * across, geometry[1] * down))
    return replace(region, geometry=scaled_box(geometry, across=across, down=down))
