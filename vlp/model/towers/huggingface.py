"""Towers from Hugging Face transformers: sentence encoders, and image encoders of the DINOv2 / ViT kind.

A model is named by a local folder, by `package:NAME` (an installed package that carries one), or by its name on the
hub; only the last ever asks the network.
"""

import inspect
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from tokenizers import Tokenizer as TokenizerBackend
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from vlp.data.tokens import Tokenizer, resolve_text_model
from vlp.errors import BackendError, ConfigError
from vlp.model.towers.tower import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig
from vlp.tensors import Tokens

TEXT_FOLDER = "text_tower"
IMAGE_FOLDER = "image_tower"
TOKENIZER_FOLDER = "tokenizer"

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,;:()/%+-'\""


class HuggingFaceTextConfig(TextTowerConfig):
    """A sentence encoder, e.g. sentence-transformers/all-mpnet-base-v2."""

    kind: Literal["huggingface"] = "huggingface"
    path: str | None = None
    """Folder, package:NAME, or hub name; may be unset with random_init, which then reads letter by letter."""
    pooling: Literal["mean", "cls"] = "mean"
    """Mean over the tokens of a text, or its first token."""
    max_tokens: int = Field(default=64, ge=8)
    """Longer texts are cut."""
    random_init: dict[str, Any] | None = None
    """Untrained weights of this architecture instead: model_type and sizes, or {} for the one at `path`."""

    @model_validator(mode="after")
    def _named(self) -> "HuggingFaceTextConfig":
        if self.path is None and not self.random_init:
            raise ValueError("give path (a folder, package:NAME or hub name) or random_init (an architecture)")
        return self

    def build(self, *, saved: Path | None) -> "HuggingFaceTextTower":
        """The tower and its tokenizer.

        Raises:
            BackendError: if the model or its tokenizer cannot be had.
        """
        source = None if self.path is None or saved is not None else _source(self.path)
        if saved is not None:
            tokenizer = Tokenizer.from_folder(saved / TOKENIZER_FOLDER, max_tokens=self.max_tokens)
        elif source is None:
            tokenizer = _letter_tokenizer(self.max_tokens)
        else:
            tokenizer = _tokenizer(source, self.max_tokens)
        sizes = self.random_init and self.random_init | ({} if source else {"vocab_size": len(tokenizer)})
        model = _model(source, sizes, saved and saved / TEXT_FOLDER)
        tower = HuggingFaceTextTower(model, tokenizer, pooling=self.pooling)
        tower.freeze(self.freeze, lora=self.lora)
        return tower


class HuggingFaceImageConfig(ImageTowerConfig):
    """An image encoder with class token and patches, e.g. microsoft/rad-dino, StanfordAIMI/dinov2-base-xray-224."""

    kind: Literal["huggingface_image"] = "huggingface_image"
    path: str | None = None
    """Folder, package:NAME, or hub name."""
    random_init: dict[str, Any] | None = None
    """Untrained weights of this architecture instead: model_type and sizes, or {} for the one at `path`."""

    @model_validator(mode="after")
    def _named(self) -> "HuggingFaceImageConfig":
        if self.path is None and not self.random_init:
            raise ValueError("give path (a folder, package:NAME or hub name) or random_init (an architecture)")
        return self

    def build(self, *, size: tuple[int, int], channels: int, saved: Path | None) -> "HuggingFaceImageTower":
        """The tower.

        Raises:
            BackendError: if the model cannot be had.
            ConfigError: if its patches do not divide the size, or it takes another number of channels.
        """
        source = None if self.path is None or saved is not None else _source(self.path)
        sizes = self.random_init and {"num_channels": channels} | self.random_init
        model = _model(source, sizes, saved and saved / IMAGE_FOLDER)
        tower = HuggingFaceImageTower(model, size=size, channels=channels, pooled=self.pooled)
        tower.freeze(self.freeze, lora=self.lora)
        return tower


class HuggingFaceTextTower(TextTower):
    """A transformers encoder, pooled to one vector per text."""

    def __init__(self, model: Any, tokenizer: Tokenizer, *, pooling: Literal["mean", "cls"]) -> None:
        super().__init__()
        self.model: Any = _without_pooler(model)
        self.tokenizer = tokenizer
        self.width = int(model.config.hidden_size)
        self._pooling = pooling

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Embeddings, then every transformer layer."""
        return _layers(self.model)

    def blocks(self) -> Sequence[nn.Module]:
        """Every transformer layer."""
        return _blocks(self.model)[1]

    def save_design(self, folder: Path) -> None:
        """Writes the architecture; the tokenizer is saved by the checkpoint."""
        self.model.config.save_pretrained(folder / TEXT_FOLDER)

    def encode(self, tokens: Tokens, /) -> Float[Tensor, "text width"]:
        """Mean over real tokens, or the first token, of the last layer."""
        hidden = self.model(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state
        if self._pooling == "cls":
            first: Tensor = hidden[:, 0]
            return first
        mask = tokens.mask[..., None].to(hidden.dtype)
        mean: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        return mean


class HuggingFaceImageTower(ImageTower):
    """A transformers image encoder: its last layer, position embeddings interpolated to the size asked for."""

    def __init__(self, model: Any, *, size: tuple[int, int], channels: int, pooled: Literal["mean", "cls"]) -> None:
        super().__init__(pooled=pooled, size=size, channels=channels)
        self.model: Any = _without_pooler(model)
        design = model.config
        patch = getattr(design, "patch_size", None)
        if not isinstance(patch, int):
            raise ConfigError(f"image tower: a {design.model_type} has no square patches; use kind='timm' for others")
        self.patch_px = (patch, patch)
        self._check_division(size)
        if design.num_channels != channels:
            raise ConfigError(f"image tower: it takes {design.num_channels} channels; set preprocess.channels to that")
        self.width = int(design.hidden_size)
        self.grid = (size[0] // patch, size[1] // patch)
        takes = inspect.signature(model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in takes else {}
        for name, parameter in model.named_parameters():
            if name.endswith("mask_token"):  # only masked pretraining uses it
                parameter.requires_grad_(False)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Embeddings, then every transformer layer."""
        return _layers(self.model)

    def blocks(self) -> Sequence[nn.Module]:
        """Every transformer layer."""
        return _blocks(self.model)[1]

    def save_design(self, folder: Path) -> None:
        """Writes the architecture."""
        self.model.config.save_pretrained(folder / IMAGE_FOLDER)

    def encode(
        self, images: Float[Tensor, "image channel height width"], /
    ) -> tuple[Tensor | None, Float[Tensor, "image rows columns width"]]:
        """Class token and patches of the last layer; registers are dropped."""
        hidden = self.model(pixel_values=images, **self._options).last_hidden_state
        assert self.patch_px is not None
        rows, columns = images.shape[2] // self.patch_px[0], images.shape[3] // self.patch_px[1]
        prefix = hidden.shape[1] - rows * columns
        return (hidden[:, 0] if prefix > 0 else None), hidden[:, prefix:].unflatten(1, (rows, columns))


def _source(path: str) -> Path | str:
    """An existing folder, or the name as the hub knows it."""
    folder = resolve_text_model(path)
    if folder.is_dir():
        return folder
    if path.count("/") > 1 or path.startswith((".", "/", "~")):
        raise BackendError(f"{path}: no such model folder")
    return path


def _model(source: Path | str | None, random_init: dict[str, Any] | None, saved: Path | None) -> nn.Module:
    """The model with float32 weights: of a design alone (saved, or random_init), or as published at `source`."""
    try:
        if saved is not None:
            return AutoModel.from_config(AutoConfig.from_pretrained(saved, local_files_only=True))
        if random_init:
            return AutoModel.from_config(AutoConfig.for_model(**random_init))
        assert source is not None
        local = isinstance(source, Path)
        _quieten()
        if random_init is not None:
            return AutoModel.from_config(AutoConfig.from_pretrained(source, local_files_only=local))
        model, report = AutoModel.from_pretrained(
            source, local_files_only=local, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # transformers, its hub client and every architecture raise their own kinds
        reason = " ".join(str(error).split())[:160]
        if source is None or saved is not None:
            raise ConfigError(f"model design: transformers cannot build it: {reason}") from None
        raise BackendError(f"{source}: no model from there ({reason}); give a local folder") from None
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise BackendError(f"{source}: {len(missing)} weights of this model are not in it, e.g. {missing[0]}")
    loaded: nn.Module = model
    return loaded


def _quieten() -> None:
    """Its bars and reports of unused heads say nothing; what matters of them is checked here."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _tokenizer(source: Path | str, max_tokens: int) -> Tokenizer:
    if isinstance(source, Path):
        return Tokenizer.from_folder(source, max_tokens=max_tokens)
    try:
        published = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:160]
        raise BackendError(f"{source}: no tokenizer from the hub ({reason}); give a local folder") from None
    with tempfile.TemporaryDirectory() as folder:
        published.save_pretrained(folder)
        return Tokenizer.from_folder(folder, max_tokens=max_tokens)


def _letter_tokenizer(max_tokens: int) -> Tokenizer:
    """Reads letter by letter: needs no vocabulary file, for designs built from scratch and for tests."""
    vocabulary = [*_SPECIAL, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    ids = {token: index for index, token in enumerate(vocabulary)}
    backend = TokenizerBackend(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return Tokenizer(backend, pad_token="[PAD]", max_tokens=max_tokens)


def _without_pooler(model: Any) -> Any:
    """A head no feature depends on would get no gradient, and distributed training would wait for it."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model


def _blocks(model: nn.Module) -> tuple[str, list[nn.Module]]:
    """Name and modules of the longest list of modules: a transformer's layers."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        return "", []
    name, blocks = max(lists, key=lambda entry: len(entry[1]))
    return name, list(blocks)


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters before the blocks, in each of them, and (with the last) after them."""
    name, blocks = _blocks(model)
    if not blocks:
        raise ConfigError("this tower has no list of blocks and cannot be frozen in part; use 'none' or 'all'")
    groups: list[list[nn.Parameter]] = [[] for _ in range(len(blocks) + 1)]
    place = 0
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.startswith(f"{name}."):
            place = 1 + int(parameter_name.removeprefix(f"{name}.").partition(".")[0])
        elif place > 0:
            place = len(blocks)
        groups[place].append(parameter)
    return groups
