"""One training step: a batch in, a loss out, and the few numbers worth writing down."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from vlp.errors import ConfigError
from vlp.model.model import VisionLanguageModel
from vlp.model.scorers.scorer import Temperature
from vlp.model.towers.recomputation import BuffersKept
from vlp.objectives import ALONE, Across, Pairs, Ranks, SoftTargetsConfig
from vlp.tensors import Batch, ImageFeatures, TextFeatures
from vlp.train.config import TrainConfig
from vlp.train.gather import Joined, gather_texts
from vlp.train.guard import is_finite
from vlp.train.optimizer import make_optimizer, set_lr
from vlp.train.scale.micro import encode_images, encode_texts, number_of_parts
from vlp.train.scale.resolution import shrink, size_at
from vlp.train.scale.sharding import clip_gradients
from vlp.train.terms import SHARES, PairRules, make_pairs, pair_shares, pooled_logits, view_pairs


class PretrainingModule(pl.LightningModule):
    """The model, its loss and its optimizer.

    `measured` holds the last step's numbers, as tensors where reading them would make the device wait.  They are
    those of the whole step, and the same on every rank.
    """

    def __init__(self, model: VisionLanguageModel, config: TrainConfig, *, step: int = 0) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.step = step
        """Steps trained before the one that is running."""
        self.measured: dict[str, float | Tensor] = {}
        self.images = 0
        """Images of the last step, on all ranks."""
        self.skipped = False
        """Whether the last step updated nothing, because its loss or its gradient was not finite."""
        self._statistics: BuffersKept | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `measured` holds."""
        terms = [term_name(self.config, number) for number in range(len(self.config.terms))]
        return ("loss", *(["loss_scores", *terms] if terms else []), "lr", "gradient_norm", *SHARES,
                *self._temperatures())  # fmt: skip

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Fixes what the step depends on, as functions of (seed, step, rank): learning rate and random numbers."""
        share = self.config.schedule.share(self.step, max_steps=self.config.max_steps)
        lr = self.config.optimizer.lr * share
        set_lr(self.trainer.optimizers[0], lr)
        torch.manual_seed(step_seed(self.config.seed, self.step, self.global_rank))
        self.measured = {"lr": lr, **self._temperatures()}
        self.skipped = False
        self._statistics = self._statistics or BuffersKept(self.model)  # not before the model is on its device
        self._statistics.keep()

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one step: of this batch, or of those of all ranks, which then have the same loss."""
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        group = dist.group.WORLD if several else None
        across = ALONE if group is None else Ranks(group)
        joined = gather_texts(batch, group=group)
        self.images = sum(joined.num_images)
        batch = self._at_size(batch)
        parts = number_of_parts(joined.num_images, self.config.micro_batch)
        resized = bool(self.config.resolution)
        images = encode_images(self.model, batch, parts=parts, resized=resized)
        texts = TextFeatures(pooled=joined.texts(exact(encode_texts(self.model, batch.tokens, parts=parts).pooled)))
        logits = self._logits(texts, images)[joined.sentence]
        with torch.autocast(self.device.type, enabled=False):
            near = self.config.positives.near_duplicate is not None
            vectors = self.model.embed_texts(texts).detach() if near else None
            pairs, found = make_pairs(self._rules(), joined, known=batch.known, vectors=vectors)
            losses = {"loss_scores": self.config.objective(logits, pairs, across=across)}
            losses |= self._terms(texts, images, joined, pairs, across)
            loss = torch.stack(list(losses.values())).sum()
            self.measured |= pair_shares(pairs, found, joined, across=across)
        if len(losses) > 1:
            self.measured |= {name: value.detach() for name, value in losses.items()}
        self.measured["loss"] = loss.detach()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rates are set anew at every step, so there is no schedule object to save."""
        towers = {"image": self.model.image_tower, "text": self.model.text_tower}
        return make_optimizer(self.model.parameter_groups(), self.config.optimizer, towers=towers)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of the whole gradient, notes the norm before, and drops a gradient that is no number."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        limit = self.config.gradient_clip or math.inf
        norm = clip_gradients(parameters, limit)
        self.measured["gradient_norm"] = norm
        # A scaler looks for infinite gradients itself and lowers its scale; then only the loss tells.
        scaled = self.config.precision == "16-mixed"
        self.skipped = not is_finite(self.measured["loss"], *([] if scaled else [norm]))
        if self.skipped and self._statistics is not None:
            self._statistics.put_back()
        if self.skipped and not scaled:
            optimizer.zero_grad(set_to_none=True)

    def idle_parameters(self) -> list[str]:
        """Names of what learns but has no part in any score: no loss will ever give it a gradient."""
        model, names = self.model, [name for name, value in self.model.named_parameters() if value.requires_grad]
        parameters = [model.get_parameter(name) for name in names]
        was_training = model.training
        model.eval()  # else the look at an empty image would move batch statistics
        try:
            rows, columns = model.config.preprocess.rows_columns
            images = model.encode_images(torch.zeros(1, 1, rows, columns, dtype=torch.uint8, device=model.device))
            texts = model.encode_texts(model.tokenizer(["There is no pneumothorax."]).to(model.device))
            seen = [model.score(texts, images).logits]
            if self.config.terms:
                seen += [model.embed_images(images), model.embed_texts(texts)]
            total = torch.stack([value.sum() for value in seen]).sum()
            gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        finally:
            model.train(was_training)
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]

    def _logits(self, texts: TextFeatures, images: ImageFeatures) -> Float[Tensor, "unique image"]:
        try:
            return exact(self.model.score(texts, images).logits)
        except ValueError as error:
            if "not finite" not in str(error):
                raise
            # A kernel has looked before the loss is there.  Every process must still come to the end of the step, with
            # a gradient for everything that learns.
            parts = [texts.pooled, images.patches, images.pooled, *self.model.scorer.parameters()]
            nothing = exact(torch.stack([part.sum() for part in parts]).sum()) * math.nan
            return nothing.expand(len(texts.pooled), len(images.pooled))

    def _at_size(self, batch: Batch) -> Batch:
        """The batch at the size of this part of the run, where the run grows its images."""
        full_size = self.config.model.preprocess.rows_columns
        size = size_at(self.config.resolution, step=self.step, max_steps=self.config.max_steps, full=full_size)
        if size == full_size:
            return batch
        images, padding = shrink(batch.images, padding=batch.padding, size=size)
        return replace(batch, images=images, padding=padding)

    def _rules(self) -> PairRules:
        config = self.config
        objectives = (config.objective, *(term.objective for term in config.terms))
        return PairRules(
            positives=config.positives,
            weights=config.text_weights,
            flip_hardness=None if config.loader.flips is None else config.hard_negatives.hardness(self.step),
            with_agreement=any(isinstance(objective, SoftTargetsConfig) for objective in objectives),
        )

    def _terms(
        self, texts: TextFeatures, images: ImageFeatures, joined: Joined, pairs: Pairs, across: Across
    ) -> dict[str, Tensor]:
        if not self.config.terms:
            return {}
        kinds = {term.on for term in self.config.terms}
        vectors = self.model.embed_images(images)
        sentences = self.model.embed_texts(texts) if "pooled" in kinds else None
        everyone = joined.images(vectors) if "image_image" in kinds else None
        losses = {}
        for number, term in enumerate(self.config.terms):
            chosen: tuple[Tensor, Pairs] | None
            if term.on == "pooled":
                assert sentences is not None
                chosen = (
                    pooled_logits(sentences, vectors, sentence=joined.sentence, temperature=term.temperature),
                    pairs,
                )
            else:
                assert everyone is not None
                chosen = view_pairs(everyone, vectors, joined=joined, temperature=term.temperature)
            value = vectors.sum() * 0.0 if chosen is None else term.objective(*chosen, across=across)
            losses[term_name(self.config, number)] = term.weight * value
        return losses

    def _temperatures(self) -> dict[str, Tensor]:
        return {
            name.removeprefix("scorer."): part.log.detach().exp()
            for name, part in self.model.named_modules()
            if isinstance(part, Temperature)
        }


def diverged(what: str, *, step: int) -> ConfigError:
    """The error of a run whose numbers have left the range of numbers."""
    return ConfigError(
        f"{what} at step {step}; lower optimizer.lr, lengthen schedule.warmup_steps, or use precision bf16-mixed or 32"
    )


def exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32, whatever autocast made of them; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()


def term_name(config: TrainConfig, number: int) -> str:
    """Column of a further term in metrics.csv; numbered where two terms stand on the same thing."""
    kinds: Sequence[str] = [term.on for term in config.terms]
    twice = kinds.count(kinds[number]) > 1
    return f"loss_{kinds[number]}{number + 1 if twice else ''}"


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step of every rank, so that a resumed run draws the same numbers."""
    mixed: Any = torch.tensor([seed, step, rank], dtype=torch.int64) * torch.tensor([1_000_003, 8_191, 131_071])
    return int(mixed.sum())
