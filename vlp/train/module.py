"""One training step: a batch in, a loss out, and the few numbers worth writing down."""

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from vlp.model.model import VisionLanguageModel
from vlp.model.scorers.scorer import Temperature
from vlp.objectives import AnyObjective
from vlp.tensors import Batch, ImageFeatures, TextFeatures
from vlp.train.config import TrainConfig
from vlp.train.optimizer import make_optimizer, set_lr
from vlp.train.terms import distinct_weights, own_pairs, pooled_logits, shared_pairs, view_pairs


class PretrainingModule(pl.LightningModule):
    """The model, its loss and its optimizer.

    `measured` holds the last step's numbers, as tensors where reading them would make the device wait.
    """

    def __init__(self, model: VisionLanguageModel, config: TrainConfig, *, step: int = 0) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.step = step
        """Steps trained before the one that is running."""
        self.measured: dict[str, float | Tensor] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what `measured` holds."""
        terms = [term_name(self.config, number) for number in range(len(self.config.terms))]
        return ("loss", *(["loss_scores", *terms] if terms else []), "lr", "gradient_norm", "shared_pairs",
                *self._temperatures())  # fmt: skip

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Fixes what the step depends on, as functions of (seed, step, rank): learning rate and random numbers."""
        share = self.config.schedule.share(self.step, max_steps=self.config.max_steps)
        lr = self.config.optimizer.lr * share
        set_lr(self.trainer.optimizers[0], lr)
        torch.manual_seed(step_seed(self.config.seed, self.step, self.global_rank))
        self.measured = {"lr": lr, **self._temperatures()}

    def training_step(self, batch: Batch, batch_idx: int) -> Float[Tensor, ""]:
        """The loss of one batch."""
        images = self.model.encode_images(batch.images, padding=batch.padding)
        texts = self.model.encode_texts(batch.tokens)
        logits = self.model.score(texts, images).logits[batch.sentence]
        with torch.autocast(self.device.type, enabled=False):
            losses = self._losses(batch, texts, images, logits.float())
            loss = torch.stack(list(losses.values())).sum()
            self.measured["shared_pairs"] = shared_pairs(batch.positives(), own_pairs(batch))
        if len(losses) > 1:
            self.measured |= {name: value.detach() for name, value in losses.items()}
        self.measured["loss"] = loss.detach()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; its rates are set anew at every step, so there is no schedule object to save."""
        return make_optimizer(self.model.parameter_groups(), self.config.optimizer)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of the whole gradient, and notes the norm before."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        limit = self.config.gradient_clip or math.inf
        self.measured["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, limit)

    def _losses(
        self, batch: Batch, texts: TextFeatures, images: ImageFeatures, logits: Float[Tensor, "text image"]
    ) -> dict[str, Tensor]:
        weights = distinct_weights(batch) if self.config.text_weights == "distinct" else None
        positives = wanted_positives(batch, self.config.objective)
        losses = {"loss_scores": self.config.objective(logits, positives, weights=weights)}
        for number, term in enumerate(self.config.terms):
            vectors = self.model.embed_images(images)
            if term.on == "pooled":
                sentences = self.model.embed_texts(texts)
                cosines = pooled_logits(sentences, vectors, sentence=batch.sentence, temperature=term.temperature)
                value = term.objective(cosines, wanted_positives(batch, term.objective), weights=weights)
            else:
                pairs = view_pairs(vectors, study=batch.study, temperature=term.temperature)
                value = logits.new_zeros(()) if pairs is None else term.objective(*pairs)
            losses[term_name(self.config, number)] = term.weight * value
        return losses

    def _temperatures(self) -> dict[str, Tensor]:
        return {
            name.removeprefix("scorer."): part.log.detach().exp()
            for name, part in self.model.named_modules()
            if isinstance(part, Temperature)
        }


def wanted_positives(batch: Batch, objective: AnyObjective) -> Int8[Tensor, "text image"]:
    """The matrix the objective asks for: identical sentences of other studies are positive, or ownership alone."""
    return batch.positives() if objective.duplicates_are_positive else own_pairs(batch).to(torch.int8)


def term_name(config: TrainConfig, number: int) -> str:
    """Column of a further term in metrics.csv; numbered where two terms stand on the same thing."""
    kinds: Sequence[str] = [term.on for term in config.terms]
    twice = kinds.count(kinds[number]) > 1
    return f"loss_{kinds[number]}{number + 1 if twice else ''}"


def step_seed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for every step of every rank, so that a resumed run draws the same numbers."""
    mixed: Any = torch.tensor([seed, step, rank], dtype=torch.int64) * torch.tensor([1_000_003, 8_191, 131_071])
    return int(mixed.sum())
