"""Faster towers: compiled, and with the memory layout that their convolutions like.

Neither changes what a model is: parameters keep their names and values, so checkpoints are the same.
"""

import importlib.util
import os
import shutil
from typing import Literal

import torch
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from vlp.errors import BackendError
from vlp.model.model import VisionLanguageModel
from vlp.model.towers import Tower

ChannelsLast = Literal["auto"] | bool
_COMPILERS = ("c++", "g++", "clang++")


def compile_towers(model: VisionLanguageModel, *, backend: str = "inductor") -> list[str]:
    """Has torch compile the towers where they are; they are translated at their first call (minutes for large ones).

    A wholly frozen text tower is left as it is: it reads every sentence once in a run, and alone.  Sizes that change
    from batch to batch (texts, their length, images of studies with several) are learned from the first two and do not
    translate anew.  Towers may be sharded before or after.

    Args:
        model: Whose towers.
        backend: torch's name of what translates; inductor makes code for the device.

    Returns:
        Names of the towers that are compiled.

    Raises:
        BackendError: if there is no compiler for what inductor writes.
    """
    if backend == "inductor":
        _refuse_missing_compiler(model.device)
    towers = {"image": model.image_tower, "text": model.text_tower}
    chosen = {name: tower for name, tower in towers.items() if not (name == "text" and tower.frozen)}
    for tower in chosen.values():
        tower.compile(backend=backend)
    return list(chosen)


def lay_out(model: VisionLanguageModel, *, channels_last: ChannelsLast = "auto") -> bool:
    """Puts the image tower's convolutions into the memory layout asked for and says whether channels come last.

    Channels last is up to three times as fast for convolutional networks on CPUs and on GPUs with tensor cores; a
    transformer has one convolution, where it changes nothing.

    Args:
        model: Whose image tower.
        channels_last: auto: where every block has a convolution.
    """
    tower = model.image_tower
    chosen = is_convolutional(tower) if channels_last == "auto" else channels_last
    convert_conv2d_weight_memory_format(tower, torch.channels_last if chosen else torch.contiguous_format)
    return chosen


def is_convolutional(tower: Tower) -> bool:
    """Whether all blocks of a tower have two-dimensional convolutions."""
    blocks = tower.blocks()
    return bool(blocks) and all(any(isinstance(part, nn.Conv2d) for part in block.modules()) for block in blocks)


def _refuse_missing_compiler(device: torch.device) -> None:
    # Triton, which GPUs need, builds its launchers with a C compiler; a CPU's code is C++.
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise BackendError("compile: triton is not installed; install it, or set compile to false")
    named = [os.environ["CXX"]] if os.environ.get("CXX") else list(_COMPILERS)
    if not any(shutil.which(name) for name in named):
        raise BackendError("compile: no C++ compiler found (g++ or clang++); install one, or set compile to false")
