"""Image towers from timm: any model whose features have a grid, of any input size, with one channel or three."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from vlp.errors import BackendError, ConfigError
from vlp.model.towers.stem import ConvStem
from vlp.model.towers.tower import ImageTower, ImageTowerConfig
from vlp.model.towers.weights import fit_by_name, fit_by_order, read_weights


class TimmTowerConfig(ImageTowerConfig):
    """A model of timm by name, e.g. vit_tiny_patch16_224, resnet50, convnext_tiny."""

    kind: Literal["timm"] = "timm"
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed on to timm.create_model, e.g. {patch_size: 8, embed_dim: 128, depth: 4, num_heads: 4}."""
    stem: Literal["patch", "conv"] = "patch"
    """conv: a ViT sees its patches through a few 3x3 convolutions, which learn from far fewer images."""
    stage: int | None = None
    """Of a CNN: which feature map to take, counted as timm counts them (0 the finest); unset: the last."""
    pretrained: bool = False
    """Weights from timm's hub; needs the network."""
    weights: Path | None = None
    """Weights from a local .safetensors or .pth file (loaded without running code)."""
    weights_by: Literal["name", "order"] = "name"
    """order: tensors are matched by position, for files whose names differ but whose layers do not."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        # A name may carry a pretraining tag: vit_small_patch14_dinov2.lvd142m.
        if not timm.is_model(name.partition(".")[0]):
            close = timm.list_models(f"*{name.partition('.')[0][:8]}*")[:3]
            raise ValueError(f"timm has no model {name!r}" + (f"; close: {', '.join(close)}" if close else ""))
        return name

    def build(self, *, size: tuple[int, int], channels: int, saved: Path | None) -> "TimmTower":
        """The tower.

        Raises:
            ConfigError: if the arguments do not suit the model, or a patch does not divide the size.
            BackendError: if weights that were asked for cannot be had.
        """
        tower = TimmTower(self, size=size, channels=channels, model=self._create(size, channels, saved))
        if self.weights is not None and saved is None:
            fit = fit_by_order if self.weights_by == "order" else fit_by_name
            fit(tower.model, read_weights(self.weights), where=str(self.weights))
        tower.freeze(self.freeze, lora=self.lora)
        return tower

    def _create(self, size: tuple[int, int], channels: int, saved: Path | None) -> nn.Module:
        arguments: dict[str, Any] = {"num_classes": 0, "global_pool": "", "in_chans": channels} | self.arguments
        if timm.get_pretrained_cfg(self.name, allow_unregistered=True).fixed_input_size:
            arguments.setdefault("img_size", size)
        if self.stem == "conv":
            arguments["embed_layer"] = ConvStem
        download = self.pretrained and saved is None
        try:
            return _create_for_any_size(self.name, pretrained=download, **arguments)
        except Exception as error:  # timm, its hub client and every model raise their own kinds
            reason = " ".join(str(error).split())[:160]
            if download:
                raise BackendError(
                    f"image tower {self.name!r}: no weights from timm's hub ({reason}); give weights: a local file"
                ) from None
            raise ConfigError(f"image tower {self.name!r}: timm cannot build it: {reason}") from None


class TimmTower(ImageTower):
    """A timm model without its head, read at one feature map."""

    def __init__(self, config: TimmTowerConfig, *, size: tuple[int, int], channels: int, model: Any) -> None:
        super().__init__(pooled=config.pooled, size=size, channels=channels)
        self.model: Any = model
        self._name = config.name
        self._stage = config.stage
        if config.stage is not None:
            self._prune(config.stage)
        self._prefix = int(getattr(model, "num_prefix_tokens", 0))
        self._has_token = config.stage is None and getattr(model, "cls_token", None) is not None
        if self._is_transformer():
            patch = self.model.patch_embed.patch_size
            self.patch_px = (patch, patch) if isinstance(patch, int) else patch
        else:
            # Convolutions run up to three times as fast this way, and results are the same.
            convert_conv2d_weight_memory_format(self.model, torch.channels_last)
        self._measure()
        if config.pooled == "cls" and not self._has_token:
            raise ConfigError(f"image tower {config.name!r}: pooled='cls', but it has no class token; use 'mean'")

    def layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """As timm groups them: blocks of a transformer, stages of a CNN."""
        matcher = getattr(self.model, "group_matcher", None)
        if matcher is None:
            raise ConfigError(f"image tower {self._name!r}: cannot be frozen in part; use 'none' or 'all'")
        groups = group_parameters(self.model, matcher(coarse=True), return_values=True)
        if len(groups) <= 2:  # a transformer's coarse groups are stem and everything else
            groups = group_parameters(self.model, matcher(coarse=False), return_values=True)
        return list(groups.values())

    def blocks(self) -> Sequence[nn.Module]:
        """The smallest modules that timm groups parameters by: a transformer's blocks, a CNN's within its stages."""
        matcher = getattr(self.model, "group_matcher", None)
        patterns = [] if matcher is None else _patterns(matcher(coarse=False))
        found: dict[str, nn.Module] = {}
        for name, module in self.model.named_modules():
            inside = any(name.startswith(f"{outer}.") for outer in found)
            if not inside and any(pattern.fullmatch(name) for pattern in patterns):
                found[name] = module
        return list(found.values())

    def encode(
        self, images: Float[Tensor, "image channel height width"], /
    ) -> tuple[Tensor | None, Float[Tensor, "image rows columns width"]]:
        """The last feature map, or that of the chosen stage; registers are dropped."""
        if self._stage is not None:
            features = self.model.forward_intermediates(images, indices=[self._stage], intermediates_only=True)[0]
            return None, features.permute(0, 2, 3, 1)
        features = self.model.forward_features(images)
        if features.ndim == 3:
            patches = features[:, self._prefix :]
            token = features[:, 0] if self._has_token else None
            return token, patches.unflatten(1, self._grid(images.shape[2:], int(patches.shape[1])))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return None, features
        return None, features.permute(0, 2, 3, 1)

    def _prune(self, stage: int) -> None:
        try:
            self.model.prune_intermediate_layers([stage])
        except (AttributeError, AssertionError, IndexError, TypeError):
            raise ConfigError(f"image tower {self._name!r}: it has no stage {stage}") from None

    def _measure(self) -> None:
        """Finds width and grid by one pass over an empty image, and sets aside parameters no feature depends on."""
        self._check_division(self.size)
        was_training = self.model.training
        self.model.eval()
        with torch.enable_grad():
            try:
                _, patches = self.encode(self.example())
            except (AssertionError, RuntimeError) as error:
                reason = " ".join(str(error).split())[:160]
                raise ConfigError(
                    f"image tower {self._name!r} does not take {self.size[0]} x {self.size[1]} px: {reason}"
                ) from None
            if not self._is_transformer():
                _set_aside_unused(self.model, patches)
        self.model.train(was_training)
        self.width = int(patches.shape[3])
        self.grid = int(patches.shape[1]), int(patches.shape[2])

    def _is_transformer(self) -> bool:
        return self._stage is None and hasattr(self.model, "num_prefix_tokens") and hasattr(self.model, "patch_embed")

    def _grid(self, size: Sequence[int], patches: int) -> tuple[int, int]:
        """The shape of a list of so many patches."""
        if self.patch_px is not None:
            return size[0] // self.patch_px[0], size[1] // self.patch_px[1]
        rows = round((patches * size[0] / size[1]) ** 0.5)
        if rows == 0 or patches % rows:
            raise ConfigError(f"image tower {self._name!r}: no patch grid at {size[0]} x {size[1]} px")
        return rows, patches // rows


def _create_for_any_size(name: str, **arguments: Any) -> nn.Module:
    """A transformer that fits its position embeddings to the images it sees, where timm's class can do that."""
    model: nn.Module
    if "img_size" in arguments:
        try:
            model = timm.create_model(name, **({"dynamic_img_size": True} | arguments))
            return model
        except TypeError as error:
            if "dynamic_img_size" not in str(error):
                raise
    model = timm.create_model(name, **arguments)
    return model


def _patterns(groups: Mapping[str, Any]) -> list[re.Pattern[str]]:
    """What the names of blocks look like, of timm's rules for grouping parameters: (pattern, place) or pattern."""
    rules: list[tuple[str, Any]] = []
    for name, rule in groups.items():
        if name != "stem" and rule is not None:
            rules += [(rule, None)] if isinstance(rule, str) else rule
    return [re.compile(pattern) for pattern, place in rules if place is None]


def _set_aside_unused(model: nn.Module, output: Tensor) -> None:
    """Leftovers of a removed head get no gradient; distributed training must not wait for one."""
    parameters = list(model.parameters())
    gradients: Sequence[Tensor | None] = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)
