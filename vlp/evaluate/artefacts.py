"""Calibration and gate that an evaluation is told to use, refused where they cannot give an honest figure."""

from pathlib import Path
from typing import TYPE_CHECKING

from vlp.data import ShardReader
from vlp.errors import DataError
from vlp.evaluate.config import EvaluateConfig
from vlp.inference import gate as gates
from vlp.inference.calibration import Calibration
from vlp.inference.gate import Gate
from vlp.prompts.descriptors import DescriptorSet

if TYPE_CHECKING:
    from vlp.evaluate.questions import Questions
    from vlp.inference.engine import Engine


def load_calibration(
    model: "Engine", reader: ShardReader, config: EvaluateConfig, descriptors: DescriptorSet
) -> Calibration | None:
    """The calibration of `config`; None where it names none.

    Raises:
        CheckpointError: for a calibration of another model.
        DataError: if it cannot be read, was fitted on the studies that are scored, is for other sentences or another
            way of scoring a study, or has no weights where they are asked for.
    """
    if config.calibration is None:
        return None
    found = Calibration.load(config.calibration)
    found.refuse_other(model, descriptors, prompts=config.prompts if config.weighted else None, protocol="vlp")
    where, fitted = config.calibration, found.fitted_on
    if fitted.split == config.split and fitted.shards_sha256 == reader.digest():
        raise DataError(
            f"{where}: fitted on the {fitted.split} studies of these shards, which are to be scored; calibrate on "
            "others"
        )
    if found.views != config.views:
        raise DataError(f"{where}: fitted for views: {found.views}, not {config.views}; evaluate as was calibrated")
    if config.weighted and found.pooling.kind == "geometric_mean":
        raise DataError(f"{where}: holds no descriptor weights; calibrate with pooling: log_odds")
    return found


def load_gate(model: "Engine", config: EvaluateConfig) -> Gate | None:
    """The gate that lies beside the calibration of `config`; None where there is none.

    Raises:
        CheckpointError: for a gate of another model.
        DataError: if it cannot be read.
    """
    if config.calibration is None:
        return None
    path = _folder(config.calibration) / gates.FILE_NAME
    if not path.is_file():
        return None
    found = gates.load(path)
    found.refuse_other(model)
    return found


def map_thresholds(calibration: Calibration | None, questions: "Questions") -> dict[str, float] | None:
    """The calibration's mask thresholds of the findings whose maps it chose them for, from the very same sentences."""
    if calibration is None:
        return None
    return {
        name: found.threshold
        for name in questions.findings
        if (found := calibration.maps.get(name)) is not None and set(found.texts) == set(questions.texts(name))
    } or None


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
