from typing import Any

import pytest

from tests.heads.conftest import as_config
from vlp.errors import ConfigError
from vlp.heads.decoders import PyramidConfig


def test_what_is_left_out_is_a_frozen_encoder_and_a_pyramid_of_classes(values: dict[str, Any]) -> None:
    values.pop("decoder")
    config = as_config(values)
    assert config.decoder == PyramidConfig()
    assert (config.thaw, config.conditioning, config.share, config.boxes) == (0, "class", 1.0, True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"split": "val"}, "studies of their own"),
        ({"threshold_split": "train"}, "studies of their own"),
        ({"share": 0.0}, "share"),
        ({"share": 1.5}, "share"),
        ({"decoder": {"kind": "unet"}}, "decoder"),
        ({"classes": []}, "classes"),
        ({"thaw": -1}, "thaw"),
        ({"encodr": "x"}, "did you mean 'encoder'"),
    ],
)
def test_what_makes_no_sense_is_one_line(values: dict[str, Any], change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        as_config(values | change)


def test_thaw_takes_a_number_or_all(values: dict[str, Any]) -> None:
    assert as_config(values | {"thaw": "all"}).thaw == "all"
    assert as_config(values | {"thaw": 2}).thaw == 2
