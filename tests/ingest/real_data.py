"""Where real rows and images lie, for tests marked `real_data`."""

import os
from pathlib import Path

import pytest


def real_data(*parts: str) -> Path:
    """A file or folder of the real data; where it is not there, the test is skipped and says so."""
    path = Path(os.environ.get("VLP_SHARED_DATA", "../shared/data"), *parts).resolve()
    if not path.exists():
        pytest.skip(f"no real data at {path}: set VLP_SHARED_DATA to its folder")
    return path
