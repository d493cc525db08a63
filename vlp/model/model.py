"""The whole model: images and texts in, scores and maps out."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vlp.config import Config
from vlp.data.tokens import Tokenizer
from vlp.data.transforms import Preprocess
from vlp.errors import ConfigError, DataError
from vlp.model.align import Align, AlignConfig, mean_of_patches
from vlp.model.projection import make_head
from vlp.model.scorers import AnyScorer, SimilarityAttentionConfig
from vlp.model.towers import AnyImageTower, AnyTextTower
from vlp.tensors import Batch, ImageFeatures, Scores, TextFeatures, Tokens


class ModelConfig(Config):
    """Everything that decides what a model is; its weights are the rest."""

    image: AnyImageTower
    text: AnyTextTower
    align: AlignConfig = AlignConfig()
    dim: int = Field(default=256, ge=8)
    """Width of the joint space of sentences and patches."""
    scorer: AnyScorer = SimilarityAttentionConfig()
    preprocess: Preprocess = Preprocess()


def build(config: ModelConfig, *, saved: Path | None = None) -> "VisionLanguageModel":
    """The model a configuration describes, with float32 weights: pretrained where it says so, else random.

    Args:
        config: The description.
        saved: A checkpoint's folder to take tokenizer and tower designs from, so that nothing else is asked for;
            its weights are not loaded here (see `checkpoint.load`).

    Raises:
        ConfigError: if its parts do not fit together.
        BackendError: if weights that were asked for cannot be had.
    """
    size = config.preprocess.rows_columns
    own = config.image.size
    if own is not None and (own if isinstance(own, tuple) else (own, own)) != size:
        raise ConfigError(f"model.image.size {own} is not model.preprocess.size {config.preprocess.size}; set one")
    if config.image.channels not in (None, config.preprocess.channels):
        raise ConfigError(
            f"model.image.channels {config.image.channels} is not model.preprocess.channels "
            f"{config.preprocess.channels}; set one"
        )
    return VisionLanguageModel(config, saved=saved)


class VisionLanguageModel(nn.Module):
    """Two towers, align layers, heads and a scorer.

    Called with a batch it returns logits, so that a wrapper (distributed, compiled) sees one forward.
    """

    def __init__(self, config: ModelConfig, *, saved: Path | None = None) -> None:
        """Use `build`, which checks first."""
        super().__init__()
        self.config = config
        preprocess = config.preprocess
        self.image_tower = config.image.build(size=preprocess.rows_columns, channels=preprocess.channels, saved=saved)
        self.text_tower = config.text.build(saved=saved)
        self.align = Align(config.align, width=self.image_tower.width)
        dim = config.dim
        self.image_head = make_head(config.image.head, width=self.image_tower.width, dim=dim, where="model.image")
        self.text_head = make_head(config.text.head, width=self.text_tower.width, dim=dim, where="model.text")
        self.scorer = config.scorer.build(dim=dim)
        self.float()

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns texts into the tokens this model's text tower reads."""
        return self.text_tower.tokenizer

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of every image's patches."""
        return self.image_tower.grid

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.scorer.temperature.log.device

    def forward(self, batch: Batch) -> Float[Tensor, "text image"]:
        """`score_batch`."""
        return self.score_batch(batch)

    def score_batch(self, batch: Batch) -> Float[Tensor, "text image"]:
        """Logits of every text of a batch against every image, float32.

        Each distinct sentence is encoded and scored once; its row is then repeated for the texts that use it.
        """
        texts = self.encode_texts(batch.tokens)
        scores = self.score(texts, self.project(self.batch_features(batch)))
        return scores.logits[batch.sentence]

    def batch_features(self, batch: Batch, *, resized: bool = False) -> ImageFeatures:
        """`image_features` of a batch, or what it brings of a frozen tower's (`Batch.features`).

        Args:
            batch: The batch.
            resized: As `image_features` takes it.
        """
        if batch.features is not None:
            return batch.features.float()
        return self.image_features(batch.images, padding=batch.padding, resized=resized)

    def encode_images(
        self,
        images: Shaped[Tensor, "image channel height width"],
        *,
        padding: Bool[Tensor, "image height width"] | None = None,
    ) -> ImageFeatures:
        """Features in the joint space.

        Args:
            images: uint8, or floats in [0, 1]; of the size `config.preprocess` makes.  Normalised here, and a single
                channel repeated where the tower takes three.
            padding: True at pixels that are only padding (letterbox bars); patches of nothing else take no part in
                align layers, attention and pooling.

        Raises:
            DataError: if the images are of another size.
        """
        return self.project(self.image_features(images, padding=padding))

    def image_features(
        self,
        images: Shaped[Tensor, "image channel height width"],
        *,
        padding: Bool[Tensor, "image height width"] | None = None,
        resized: bool = False,
    ) -> ImageFeatures:
        """What the image tower makes of images, before align layers and heads: its own width, and the patches' padding.

        Nothing of it changes while a frozen tower's heads learn, so it may be computed once and remembered.

        Args:
            images: As `encode_images` takes them.
            padding: As `encode_images` takes it.
            resized: Whether images may have any size the tower takes (see `ImageTower.grid_at`); the features' `grid`
                is then that of this size.

        Raises:
            DataError: if the images are of another size and not `resized`.
        """
        expected = self.config.preprocess.rows_columns
        if images.ndim != 4 or (not resized and tuple(images.shape[2:]) != expected):
            raise DataError(f"images are {tuple(images.shape)}; this model takes [image 1 {expected[0]} {expected[1]}]")
        features: ImageFeatures = self.image_tower(self.normalize(images))
        if padding is None:
            return features
        patch_padding = _patch_padding(padding, features.grid)
        pooled = features.pooled
        if self.config.image.pooled == "mean":
            pooled = mean_of_patches(features.patches, patch_padding)
        return ImageFeatures(pooled=pooled, patches=features.patches, grid=features.grid, padding=patch_padding)

    def project(self, features: ImageFeatures) -> ImageFeatures:
        """The image tower's features brought into the joint space: align layers, then the head."""
        aligned = self.align(features)
        return ImageFeatures(
            pooled=self.image_head(aligned.pooled),
            patches=self.image_head(aligned.patches),
            grid=aligned.grid,
            padding=aligned.padding,
        )

    def encode_texts(self, tokens: Tokens) -> TextFeatures:
        """Features in the joint space, one vector per text."""
        return TextFeatures(pooled=self.text_head(self.text_tower(tokens)))

    def score(self, texts: TextFeatures, images: ImageFeatures) -> Scores:
        """How well every text fits every image."""
        scores: Scores = self.scorer(texts, images)
        return scores

    def maps(self, texts: TextFeatures, images: ImageFeatures) -> Float[Tensor, "text image rows columns"]:
        """Where every text fits every image: cosines on the patch grid, comparable across prompts."""
        return self.scorer.maps(texts, images)

    def embed_images(self, images: ImageFeatures) -> Float[Tensor, "image dim"]:
        """One unit vector per image, for retrieval; which one is the scorer's to say."""
        return self.scorer.embed_images(images)

    def embed_texts(self, texts: TextFeatures) -> Float[Tensor, "text dim"]:
        """One unit vector per text, comparable with `embed_images`."""
        return self.scorer.embed_texts(texts)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What learns, by the learning rate it may have: "image" tower, "text" tower, and the "rest"."""
        groups: dict[str, list[nn.Parameter]] = {"image": [], "text": [], "rest": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                group = {"image_tower": "image", "text_tower": "text"}.get(name.partition(".")[0], "rest")
                groups[group].append(parameter)
        return groups

    def normalize(
        self, images: Shaped[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image channel height width"]:
        """Pixels as the image tower wants them: (pixel in [0, 1] - mean) / std, channels as it takes them."""
        pixels = images.float() / 255.0 if images.dtype == torch.uint8 else images.float()
        pixels = (pixels - self.config.preprocess.mean) / self.config.preprocess.std
        channels = self.image_tower.channels
        if pixels.shape[1] == channels:
            return pixels
        if pixels.shape[1] != 1:
            raise DataError(f"images have {pixels.shape[1]} channels; give one channel, or {channels}")
        return pixels.expand(-1, channels, -1, -1)


def _patch_padding(padding: Bool[Tensor, "image height width"], grid: tuple[int, int]) -> Bool[Tensor, "image patch"]:
    """Patches that hold no pixel of the image: a patch at the edge still counts."""
    holds = functional.adaptive_max_pool2d((~padding)[:, None].float(), grid)
    return holds.flatten(1) == 0
