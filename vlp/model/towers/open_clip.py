"""Towers of open_clip, through its own classes; no other module knows it.

Weights come from local files; its hub is asked only where a tag is given.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import open_clip
import torch
from jaxtyping import Float
from open_clip.model import _build_text_tower, _build_vision_tower, resize_pos_embed
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vlp.data.tokens import Tokenizer
from vlp.errors import BackendError, ConfigError
from vlp.model.towers.tower import ImageTower, ImageTowerConfig, TextTower, TextTowerConfig
from vlp.model.towers.weights import fit_by_name, read_weights
from vlp.tensors import Tokens

_CONTEXT_TOKENS = 77


def _known(name: str) -> str:
    if name not in open_clip.list_models():
        raise ValueError(f"open_clip has no model {name!r}; e.g. ViT-B-32, RN50")
    return name


class OpenClipImageConfig(ImageTowerConfig):
    """The image half of one of open_clip's models (its ViTs and ModifiedResNets; for timm's use kind timm)."""

    kind: Literal["open_clip"] = "open_clip"
    name: str
    """A model of open_clip, e.g. ViT-B-32."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Changes to its vision_cfg, e.g. {layers: 2, width: 64}."""
    weights: Path | None = None
    """A checkpoint of the whole CLIP model or of the tower: .safetensors or .pt."""
    pretrained: str | None = None
    """A tag of open_clip's hub, e.g. laion2b_s34b_b79k; needs the network."""

    _check_name = field_validator("name")(staticmethod(_known))

    def build(self, *, size: tuple[int, int], channels: int, saved: Path | None) -> "OpenClipImageTower":
        """The tower.

        Raises:
            ConfigError: for one channel (open_clip takes three), or arguments its classes refuse.
            BackendError: if weights that were asked for cannot be had.
        """
        if channels != 3:
            raise ConfigError("open_clip's image towers take three channels: set preprocess.channels=3")
        design = _design(self.name)
        vision = design["vision_cfg"] | self.arguments
        # A ResNet's own size only shapes an attention pool that is taken off again.
        vision["image_size"] = size[0] if isinstance(vision.get("layers"), list) else size
        if vision.get("timm_model_name"):
            raise ConfigError(
                f"open_clip's {self.name} is a timm model: use kind='timm', name={vision['timm_model_name']!r}"
            )
        visual = _build(_build_vision_tower, self.name, design["embed_dim"], vision, design.get("quick_gelu", False))
        tower = OpenClipImageTower(visual, size=size, pooled=self.pooled)
        if saved is None:
            _load(visual, self.name, self.weights, self.pretrained, prefix="visual.")
        tower.freeze(self.freeze, lora=self.lora)
        return tower


class OpenClipTextConfig(TextTowerConfig):
    """The text half of one of open_clip's models (its own transformer; for Hugging Face's use kind huggingface)."""

    kind: Literal["open_clip"] = "open_clip"
    name: str
    """A model of open_clip, e.g. ViT-B-32."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Changes to its text_cfg, e.g. {layers: 2, width: 64, heads: 2}."""
    weights: Path | None = None
    """A checkpoint of the whole CLIP model: .safetensors or .pt."""
    pretrained: str | None = None
    """A tag of open_clip's hub; needs the network."""

    _check_name = field_validator("name")(staticmethod(_known))

    def build(self, *, saved: Path | None) -> "OpenClipTextTower":
        """The tower and CLIP's own tokenizer, whose vocabulary open_clip carries.

        Raises:
            ConfigError: if its arguments are refused.
            BackendError: if weights that were asked for cannot be had.
        """
        design = _design(self.name)
        text = design["text_cfg"] | self.arguments
        if text.get("hf_model_name"):
            raise ConfigError(f"open_clip's {self.name} has a text model of Hugging Face: use kind='huggingface'")
        encoder = _build(_build_text_tower, self.name, design["embed_dim"], text, design.get("quick_gelu", False))
        tower = OpenClipTextTower(encoder, _clip_tokenizer(int(text.get("context_length", _CONTEXT_TOKENS))))
        if saved is None:
            _load(encoder, self.name, self.weights, self.pretrained, prefix="text.")
        tower.freeze(self.freeze, lora=self.lora)
        return tower


class OpenClipImageTower(ImageTower):
    """One of open_clip's image encoders, its patches brought to the width its class token is projected to."""

    def __init__(self, visual: Any, *, size: tuple[int, int], pooled: Literal["mean", "cls"]) -> None:
        super().__init__(pooled=pooled, size=size, channels=3)
        self.visual: Any = visual
        self._is_resnet = hasattr(visual, "layer4")
        if self._is_resnet:
            visual.attnpool = None  # made of one grid size, and used by no feature
            self.width = int(visual.layer4[-1].conv3.out_channels)
            self.grid = (size[0] // 32, size[1] // 32)
        else:
            visual.output_tokens = True
            self.width = int(visual.output_dim if visual.proj is not None else visual.ln_post.normalized_shape[0])
            rows, columns = visual.grid_size
            self.grid = (int(rows), int(columns))
        if self._is_resnet and pooled == "cls":
            raise ConfigError("open_clip's ResNets have no class token here: use pooled='mean'")
        self.patch_px = (32, 32) if self._is_resnet else visual.patch_size
        self._check_division(size)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """The stem, then transformer blocks or ResNet stages."""
        visual = self.visual
        if self._is_resnet:
            blocks = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        else:
            blocks = list(visual.transformer.resblocks)
        return _around(visual, blocks, last=() if self._is_resnet else ("ln_post", "proj"))

    def blocks(self) -> Sequence[nn.Module]:
        """Transformer blocks, or the bottlenecks of all ResNet stages."""
        visual = self.visual
        if self._is_resnet:
            return [block for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4) for block in stage]
        return list(visual.transformer.resblocks)

    def encode(
        self, images: Float[Tensor, "image channel height width"], /
    ) -> tuple[Tensor | None, Float[Tensor, "image rows columns width"]]:
        """(projected class token, projected patches); for a ResNet its last feature map."""
        visual = self.visual
        if self._is_resnet:
            features: Tensor = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
            return None, features.permute(0, 2, 3, 1)
        assert self.patch_px is not None
        grid = images.shape[2] // self.patch_px[0], images.shape[3] // self.patch_px[1]
        if grid == self.grid:
            token, patches = visual(images)
        else:  # it adds position embeddings of one size alone
            positions = _resized_positions(visual.positional_embedding, self.grid, grid)
            token, patches = functional_call(visual, {"positional_embedding": positions}, (images,))
        patches = patches if visual.proj is None else patches @ visual.proj
        return token, patches.unflatten(1, grid)


class OpenClipTextTower(TextTower):
    """CLIP's text transformer: the vector at the end of a text."""

    def __init__(self, encoder: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.tokenizer = tokenizer
        self.width = int(encoder.output_dim)

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Embeddings, then transformer blocks."""
        return _around(self.encoder, list(self.encoder.transformer.resblocks), last=("ln_final", "text_projection"))

    def blocks(self) -> Sequence[nn.Module]:
        """Transformer blocks."""
        return list(self.encoder.transformer.resblocks)

    def encode(self, tokens: Tokens, /) -> Float[Tensor, "text width"]:
        """The projected vector at the end-of-text token."""
        ids = tokens.ids.masked_fill(~tokens.mask, 0)
        # Its causal mask is made for the full context.  What follows the end of a text cannot reach it.
        ids = functional.pad(ids, (0, self.tokenizer.max_tokens - ids.shape[1]))
        pooled: Tensor = self.encoder(ids)
        return pooled


def _resized_positions(
    positions: Float[Tensor, "position width"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "new_position width"]:
    """Position embeddings (class token first) for another grid, as `open_clip.resize_pos_embed` makes them."""
    on_grid = positions[1:].unflatten(0, old).permute(2, 0, 1)[None]
    resized = functional.interpolate(on_grid, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat((positions[:1], resized[0].permute(1, 2, 0).flatten(0, 1)))


def _design(name: str) -> dict[str, Any]:
    design: dict[str, Any] = copy.deepcopy(open_clip.get_model_config(name))
    return design


def _build(make: Any, name: str, dim: int, settings: Mapping[str, Any], quick_gelu: bool) -> Any:
    try:
        module: nn.Module = make(dim, dict(settings), quick_gelu)
    except Exception as error:  # its classes raise whatever a wrong argument leads to
        raise ConfigError(f"open_clip {name}: cannot build it: {' '.join(str(error).split())[:160]}") from None
    return module


def _load(module: nn.Module, name: str, weights: Path | None, pretrained: str | None, *, prefix: str) -> None:
    """Loads a tower's part of a whole model's weights, or the tower's own."""
    if weights is not None:
        given = read_weights(weights)
    elif pretrained is not None:
        given = _downloaded(name, pretrained)
    else:
        return
    own = next(iter(module.state_dict()))
    if f"{prefix}positional_embedding" in given and hasattr(module, "grid_size"):
        resize_pos_embed(given, SimpleNamespace(visual=module))
    fit_by_name(module, given, where=f"open_clip {name}", prefix=prefix if f"{prefix}{own}" in given else "")


def _downloaded(name: str, tag: str) -> dict[str, Tensor]:
    try:
        return dict(open_clip.create_model(name, pretrained=tag).state_dict())
    except Exception as error:  # hub clients raise their own kinds
        reason = " ".join(str(error).split())[:160]
        raise BackendError(
            f"open_clip {name} {tag}: no weights from its hub ({reason}); give weights: a file"
        ) from None


def _around(module: nn.Module, blocks: Sequence[nn.Module], *, last: Sequence[str]) -> list[list[nn.Parameter]]:
    """[everything that is neither block nor last], each block, the last block with what follows it."""
    groups = [list(block.parameters()) for block in blocks]
    inside = {id(parameter) for group in groups for parameter in group}
    rest = [(name, value) for name, value in module.named_parameters() if id(value) not in inside]
    groups[-1] += [value for name, value in rest if name.partition(".")[0] in last]
    return [[value for name, value in rest if name.partition(".")[0] not in last], *groups]


def _clip_tokenizer(max_tokens: int) -> Tokenizer:
    """CLIP's byte-pair encoding as `open_clip.SimpleTokenizer` has it, in the form all our tokenizers have."""
    with tempfile.TemporaryDirectory() as folder:
        _write_clip_tokenizer(Path(folder))
        return Tokenizer.from_folder(folder, max_tokens=max_tokens)


@lru_cache(maxsize=1)
def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    simple = open_clip.SimpleTokenizer()
    return dict(simple.encoder), sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)


def _write_clip_tokenizer(folder: Path) -> None:
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_vocabulary()
    end = "<end_of_text>"
    CLIPTokenizer(
        vocab=vocabulary, merges=merges, bos_token="<start_of_text>", eos_token=end, unk_token=end, pad_token=end
    ).save_pretrained(folder)
