"""Libraries that are measured beside ours, each in a folder of its own, so that none changes this environment.

A folder holds what our environment lacks and nothing it has: every contender then runs with the same torch, numpy and
image libraries, and what differs is the loader.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_CLOUD = ("boto3", "botocore", "s3transfer", "jmespath", "python-dateutil", "six")
PACKAGES: Mapping[str, Sequence[str]] = {
    "open_clip": ("webdataset==0.2.86",),
    "mds": (
        "mosaicml-streaming==0.13.0",
        *("brotli", "catalogue", "cramjam", "python-snappy", "xxhash<4", "zstd"),
        *_CLOUD,
    ),
    "litdata": ("litdata==0.2.76", "obstore", "tifffile", *_CLOUD),
}
"""open_clip: its training code wants this webdataset at most, while ours is 1.x."""
_SECONDS = 300


class NotInstalledError(Exception):
    """A library cannot be had; the message says why."""


def install(peer: str, folder: Path) -> Path:
    """The folder under `folder` that holds the peer's packages, put there if it is not there yet.

    Raises:
        NotInstalledError: if there is no program to install with, or it fails.
    """
    target = folder / peer
    if target.is_dir():
        return target
    building = target.with_name(f".{peer}.building")
    shutil.rmtree(building, ignore_errors=True)
    command = [*_installer(), "--no-deps", "--target", str(building), *PACKAGES[peer]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise NotInstalledError(f"installing took more than {_SECONDS} s") from None
    if done.returncode:
        raise NotInstalledError(" ".join((done.stderr or done.stdout).split())[-300:])
    building.rename(target)
    return target


def _installer() -> list[str]:
    uv = shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "-q", "--python", sys.executable]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    raise NotInstalledError("neither uv nor pip is here")
