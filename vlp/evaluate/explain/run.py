"""`vlp explain`: every test on one look at some studies, as a table; with a folder, as JSON and pictures too."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlp import __version__
from vlp.data import ShardReader, open_shards
from vlp.errors import DataError
from vlp.evaluate.explain import arithmetic, contrast, curves, deletion, randomisation, region, repeatability
from vlp.evaluate.explain.deletion import FILLS, SHARES, WAYS, Curves
from vlp.evaluate.explain.randomisation import Randomised
from vlp.evaluate.explain.sample import Sample, look
from vlp.evaluate.explain.table import Row, failures
from vlp.evaluate.results import write_text
from vlp.inference import calibration as calibrations
from vlp.log import get_logger
from vlp.prompts.descriptors import DescriptorSet, load_descriptors
from vlp.records import Split

if TYPE_CHECKING:
    from vlp.inference.engine import Engine

JSON_FILE = "explain.json"
NOTE = "Research use, not a medical device."
SCHEMA_VERSION = 1
_LOGGER = get_logger("vlp.evaluate.explain")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the tests are told."""

    split: Split = "test"
    studies: int = 100
    """Looked at: the first in key order, which means nothing."""
    calibration: Path | None = None
    """None: the one found beside the checkpoint, if it fits."""
    other: Path | None = None
    """A checkpoint trained alike with another seed, or of another design; None: the test that needs it is not run."""
    resamples: int = 1000
    """Of patients, behind every interval."""
    seed: int = 0
    """Of shuffles, random orders and resamples."""
    device: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """The outcome of all tests."""

    rows: tuple[Row, ...]
    facts: dict[str, Any]
    """Which model, studies, prompts and calibration."""
    curves: Curves | None
    randomised: Randomised | None

    @property
    def failed(self) -> list[Row]:
        """The rows whose rule was not kept."""
        return failures(self.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "schema_version": SCHEMA_VERSION,
            "note": NOTE,
            **self.facts,
            "failed": len(self.failed),
            "rows": [row.to_json() for row in self.rows],
            "curves": None if self.curves is None else _curves_json(self.curves),
            "randomisation": None if self.randomised is None else _randomised_json(self.randomised),
        }


def explain(checkpoint: Path, shards: Path, *, options: Options) -> Explained:
    """Tests the explanations of a checkpoint on studies of shards.

    Raises:
        DataError: for shards that cannot be read or hold nothing to test on, or a calibration that does not fit.
        CheckpointError: for a checkpoint that cannot be loaded.
    """
    reader = open_shards(shards)
    descriptors = load_descriptors()
    from vlp.inference import engine as inference

    engine = inference.load(checkpoint, device=options.device)
    fitted = _calibration(engine, checkpoint, descriptors, options)
    other = None if options.other is None else inference.load(options.other, device=options.device)
    return explain_model(engine, reader, options=options, descriptors=descriptors, calibration=fitted, other=other)


def explain_model(
    engine: "Engine",
    reader: ShardReader,
    *,
    options: Options,
    descriptors: DescriptorSet,
    calibration: "calibrations.Calibration | None" = None,
    other: "Engine | None" = None,
) -> Explained:
    """As `explain`, for models and shards that are open already."""
    sample = look(
        engine,
        reader,
        split=options.split,
        studies=options.studies,
        descriptors=descriptors,
        calibration=calibration,
    )
    drawing = {"resamples": options.resamples, "seed": options.seed}
    rows = [*arithmetic.measure(sample, **drawing), region.measure(sample)]
    randomised_rows, randomised = randomisation.measure(sample, **drawing)
    rows += [*randomised_rows, *repeatability.measure(sample, other, **drawing)]
    deletion_rows, drawn = deletion.measure(sample, **drawing)
    rows += [*deletion_rows, *contrast.measure(sample, **drawing)]
    return Explained(rows=tuple(rows), facts=_facts(sample, options), curves=drawn, randomised=randomised)


def write(explained: Explained, folder: Path) -> list[Path]:
    """Writes `explain.json` and the pictures there are figures for; each whole or not at all.

    Raises:
        DataError: if the folder cannot be made or written to.
    """
    drawings: list[tuple[str, Callable[[Path], None]]] = []
    if explained.curves is not None:
        shown = explained.curves
        drawings.append((curves.DELETION_FILE, lambda path: curves.draw_deletion(shown, path)))
    if explained.randomised is not None:
        found = explained.randomised
        drawings.append((curves.RANDOMISATION_FILE, lambda path: curves.draw_randomisation(found, path)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(explained.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        written = [write_text(folder / JSON_FILE, text + "\n")]
        for name, draw in drawings:
            partial = folder / f".partial.{name}"
            draw(partial)
            os.replace(partial, folder / name)
            written.append(folder / name)
    except OSError as error:
        raise DataError(f"{folder}: cannot write the results there: {error.strerror}") from None
    return written


def _calibration(
    engine: "Engine", checkpoint: Path, descriptors: DescriptorSet, options: Options
) -> "calibrations.Calibration | None":
    """The calibration that was asked for; else the one beside the checkpoint, if it was made for this model."""
    asked = {"prompts": "both", "protocol": "vlp"}
    if options.calibration is not None:
        given = calibrations.Calibration.load(options.calibration)
        given.refuse_other(engine, descriptors, **asked)
        return given
    path = calibrations.find(checkpoint)
    if path is None:
        return None
    found = calibrations.Calibration.load(path)
    fault = found.misfit(engine, descriptors, **asked)
    if fault is not None:
        _LOGGER.warning("%s is left aside: %s", path, fault)
        return None
    return found


def _facts(sample: Sample, options: Options) -> dict[str, Any]:
    engine, calibration = sample.engine, sample.calibration
    return {
        "vlp": __version__,
        "model": engine.fingerprint[:16],
        "descriptors": sample.evidence.vocabulary,
        "calibration": None if calibration is None else calibration.digest,
        "pooling": sample.evidence.pooling.to_json()["kind"],
        "split": options.split,
        "studies": len(sample.studies),
        "patients": len(set(sample.patients)),
        "synthetic": any(study.synthetic for study in sample.studies),
        "findings": list(sample.findings),
        "seed": options.seed,
    }


def _curves_json(drawn: Curves) -> dict[str, Any]:
    return {
        "shares": SHARES.tolist(),
        "images": len(drawn.patients),
        "mean_similarity": {
            f"{way}, {fill}": {
                order: drawn.values[way, fill, order].mean(axis=0).tolist() for order in ("map", "random", "moved")
            }
            for way in WAYS
            for fill in FILLS
        },
    }


def _randomised_json(found: Randomised) -> dict[str, Any]:
    return {
        "levels": list(found.levels),
        "images": len(found.patients),
        "mean_likeness": {name: values.mean(axis=1).tolist() for name, values in found.likeness.items()},
        "two_images": {name: float(values.mean()) for name, values in found.baseline.items()},
    }
