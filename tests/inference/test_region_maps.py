from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vlp.inference.region_maps import region_map, region_texts

LEFT, RIGHT = np.array([[0.6, 0.0]]), np.array([[0.0, 0.4]])
ENGINE: Any = SimpleNamespace(
    maps_of=lambda texts, features: np.stack([{"a": LEFT, "b": RIGHT}[t] for t in texts])[:, None]
)


def test_the_highest_of_a_findings_maps_and_the_mean_of_a_body_parts() -> None:
    features: Any = None
    assert np.array_equal(region_map(ENGINE, features, "mass", ("a", "b"))[0], np.maximum(LEFT, RIGHT))
    assert region_map(ENGINE, features, "lungs", ("a", "b"))[0] == pytest.approx((LEFT + RIGHT) / 2)


def test_sides_are_said_of_findings_that_templates_know() -> None:
    assert region_texts("mass", "There is a mass.", sides=False) == ("There is a mass.",)
    named, left, right = region_texts("mass", "There is a mass.", sides=True)
    assert named == "There is a mass."
    assert "left" in left
    assert "right" in right
    assert region_texts("tin soldier", "There is a tin soldier.", sides=True) == ("There is a tin soldier.",)
