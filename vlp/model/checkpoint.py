"""A model as a folder: readable, complete, and safe to open.

    config.yaml           what the model is (`ModelConfig`)
    weights.safetensors   every weight, frozen towers included
    tokenizer/            the text tower's tokenizer
    text_tower/ image_tower/   architectures that the configuration names but does not hold
    card.json             what is known about it, with the weights' checksum
    README.md             the same for people

Loading needs nothing beside the folder: no hub, no text package.  Nothing in it can run code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlp import config as configuration
from vlp.errors import CheckpointError, VlpError
from vlp.model.model import ModelConfig, VisionLanguageModel, build

CONFIG_FILE = "config.yaml"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"
README_FILE = "README.md"
TOKENIZER_FOLDER = "tokenizer"

_OWN_FACTS = frozenset({"format", "vlp", "weights_sha256", "parameters"})
FORMAT = 1
"""Counts layouts of the folder; another one is refused."""


def save(folder: Path, model: VisionLanguageModel, *, card: Mapping[str, Any]) -> None:
    """Writes the model to `folder`, replacing what is there; at no moment is the folder half-written.

    A kill between the two renames of a replacement leaves the older model beside it; `latest` finds it.

    Args:
        folder: Where to.
        model: What.
        card: What should be known about it (data, steps, results ...); JSON values.

    Raises:
        CheckpointError: if the weights cannot be written, perhaps because the disk is full.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Always the same name, so that what a killed process left behind is cleared by the next.
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir()
    try:
        write(building, model, card=card)
        take_place(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def take_place(temporary: Path, target: Path) -> None:
    """Puts a finished folder where an older one may be; at every moment one of them is whole (see `latest`)."""
    older = _older(target)
    if target.exists():
        shutil.rmtree(older, ignore_errors=True)
        os.rename(target, older)
    os.rename(temporary, target)
    shutil.rmtree(older, ignore_errors=True)


def latest(target: Path, *, holding: str = CARD_FILE) -> Path | None:
    """`target`, or the older folder that a kill within `take_place` left beside it; None if neither has `holding`."""
    return next((folder for folder in (target, _older(target)) if (folder / holding).is_file()), None)


def load(folder: Path | str, *, device: str | torch.device = "cpu") -> VisionLanguageModel:
    """The model saved in `folder`, in evaluation mode.

    Raises:
        CheckpointError: one line, if files are missing or damaged, or configuration and weights disagree.
    """
    folder = Path(folder)
    card = read_card(folder)
    for name in (CONFIG_FILE, WEIGHTS_FILE, f"{TOKENIZER_FOLDER}/tokenizer.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: not a complete checkpoint: {name} is missing")
    try:
        model = build(configuration.load(ModelConfig, folder / CONFIG_FILE), saved=folder)
    except VlpError as error:
        line = str(error).splitlines()[0]
        raise CheckpointError(f"{folder}: a checkpoint of another design, or damaged: {line}") from None
    _load_weights(model, folder / WEIGHTS_FILE, card)
    return model.eval().to(device)


def read_weights(folder: Path | str) -> dict[str, Tensor]:
    """The weights of a checkpoint by their names, on the CPU.

    Raises:
        CheckpointError: if they are missing or damaged.
    """
    return _weights(Path(folder) / WEIGHTS_FILE, read_card(folder))


def read_card(folder: Path | str) -> dict[str, Any]:
    """What a checkpoint says of itself; `weights_sha256` identifies it.

    Raises:
        CheckpointError: if there is no checkpoint, or one of another format.
    """
    file = Path(folder) / CARD_FILE
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise CheckpointError(f"{folder}: no checkpoint here: {CARD_FILE} is missing") from None
    except ValueError:
        raise CheckpointError(f"{file}: damaged: not JSON") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(f"{folder}: a checkpoint of another format; this version reads format {FORMAT}")
    return card


def write(
    folder: Path, model: VisionLanguageModel, *, card: Mapping[str, Any], weights: Mapping[str, Tensor] | None = None
) -> None:
    """Writes the files of a checkpoint into a folder that is there; `save` also puts it in its place.

    Args:
        folder: Where to.
        model: What.
        card: As for `save`.
        weights: The weights to write, by their names, on the CPU; None for those the model has now.

    Raises:
        CheckpointError: if the weights cannot be written, perhaps because the disk is full.
    """
    if weights is None:
        weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    # Weights may share memory, or lie there in another order than their own; the file has each by itself.
    whole = {name: value.contiguous().clone() for name, value in weights.items()}
    try:
        save_file(whole, folder / WEIGHTS_FILE)
    except SafetensorError as error:
        raise CheckpointError(f"{folder.parent}: the weights cannot be written: {error}") from None
    (folder / CONFIG_FILE).write_text(configuration.dump(model.config), encoding="utf-8")
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)  # not for the owner alone
    model.tokenizer.save(folder / TOKENIZER_FOLDER)
    model.text_tower.save_design(folder)
    model.image_tower.save_design(folder)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "vlp": version("vlp"),
        "weights_sha256": _sha256(folder / WEIGHTS_FILE),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    facts |= {name: value for name, value in card.items() if name not in _OWN_FACTS}
    (folder / CARD_FILE).write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")
    (folder / README_FILE).write_text(_readme(model, facts), encoding="utf-8")


def _older(target: Path) -> Path:
    return target.with_name(f".{target.name}.older")


def _load_weights(model: VisionLanguageModel, file: Path, card: Mapping[str, Any]) -> None:
    weights = _weights(file, card)
    own = model.state_dict()
    different = sorted(own.keys() ^ weights.keys())
    different += sorted(name for name in own.keys() & weights.keys() if own[name].shape != weights[name].shape)
    if different:
        raise CheckpointError(
            f"{file}: of another design than its {CONFIG_FILE}: {len(different)} tensors differ, e.g. {different[0]}"
        )
    model.load_state_dict(weights)


def _weights(file: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    if not file.is_file() or _sha256(file) != card.get("weights_sha256"):
        raise CheckpointError(f"{file}: damaged: its checksum is not the one on the card; copy the checkpoint again")
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {' '.join(str(error).split())[:120]}") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _readme(model: VisionLanguageModel, facts: Mapping[str, Any]) -> str:
    rows, columns = model.config.preprocess.rows_columns
    lines = [
        "# Vision-language model of chest X-rays",
        "",
        "**Research use, not a medical device.** It scores how well a sentence fits a radiograph, shows where, and "
        "finds similar images. Its scores are similarities, not calibrated probabilities, and it has been checked on "
        "nothing but what is listed below. Do not use it for the care of patients.",
        "",
        f"- Images: {rows} x {columns} px, {model.grid[0]} x {model.grid[1]} patches, "
        f"tower `{model.config.image.kind}`",
        f"- Texts: at most {model.tokenizer.max_tokens} tokens, tower `{model.config.text.kind}`",
        f"- Scorer: `{model.config.scorer.kind}`, joint width {model.config.dim}",
        "",
        "## What is known about it",
        "",
        *(f"- {name}: {json.dumps(value, default=str)}" for name, value in facts.items()),
        "",
        "## Use",
        "",
        "```python",
        "import vlp",
        "",
        'engine = vlp.load("this/folder")',
        "```",
        "",
    ]
    return "\n".join(lines)
