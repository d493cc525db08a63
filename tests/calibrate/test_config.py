from pathlib import Path
from typing import Any

import pytest

from vlp.calibrate.config import CalibrateConfig
from vlp.config import validate
from vlp.errors import ConfigError

BASE: dict[str, Any] = {"checkpoint": "runs/x/checkpoints/final", "shards": "runs/x/shards"}


def made(**values: Any) -> CalibrateConfig:
    return validate(CalibrateConfig, {**BASE, **values}, where="test")


def test_results_go_beside_the_checkpoints_unless_told_otherwise() -> None:
    assert made().folder == Path("runs/x/calibration")
    assert made(checkpoint="runs/x").folder == Path("runs/x/calibration")
    assert made(output="elsewhere").folder == Path("elsewhere")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"folds": 1}, "folds"),
        ({"findings": []}, "findings"),
        ({"method": "beta"}, "method"),
        ({"protocol": "xplainer", "pooling": "log_odds"}, "prompts and pooling of its own"),
        ({"protocol": "xplainer", "prompts": "finding"}, "prompts and pooling of its own"),
    ],
)
def test_impossible_wishes_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        made(**values)
