"""One contender of `benchmarks.step`: a whole training step, and how long similarity attention takes within it.

Started by `benchmarks.step`; see `benchmarks.turns`.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from benchmarks import published
from benchmarks.meter import Meter
from benchmarks.turns import ROOT, Turn, serve
from vlp.config import load
from vlp.model.model import build
from vlp.model.scorers import SimilarityAttention
from vlp.objectives.pairs import Pairs
from vlp.tensors import ImageFeatures, TextFeatures, Tokens
from vlp.train.config import TrainConfig
from vlp.train.optimizer import make_optimizer

Similarity = Callable[[TextFeatures, ImageFeatures], Tensor]


class Watch:
    """Adds up the time between entering and leaving a scorer's similarity, forward and backward.

    Backward, it is entered when the gradient of the similarities arrives and left when that of texts and patches does.
    Autograd takes the node that was made last first, so a node made here, at the entrance, is reached before any of the
    towers' (a hook on the towers' own outputs would wait for its turn among them).
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds = 0.0
        self._wait = wait
        self._entered = 0.0
        self._noted = 0.0

    def around(self, similarity: Similarity) -> Similarity:
        """The same function, watched."""

        def watched(text: TextFeatures, image: ImageFeatures) -> Tensor:
            self.seconds = 0.0
            self._enter()
            texts, patches = (vectors.view_as(vectors) for vectors in (text.pooled, image.patches))
            result = similarity(replace(text, pooled=texts), replace(image, patches=patches))
            self._leave()
            if result.requires_grad:
                result.register_hook(lambda _: self._enter())
                for vectors in (texts, patches):
                    if vectors.requires_grad:
                        vectors.register_hook(lambda _: self._leave())
            return result

        return watched

    def _enter(self) -> None:
        self._wait()
        self._entered, self._noted = time.perf_counter(), 0.0

    def _leave(self) -> None:
        """May come twice, once for texts and once for patches: the later one counts."""
        self._wait()
        elapsed = time.perf_counter() - self._entered
        self.seconds += elapsed - self._noted
        self._noted = elapsed


def published_similarity(scorer: SimilarityAttention) -> Similarity:
    """The published order of operations with a scorer's own parameters, in the type of the patches.

    Raises:
        ValueError: if the scorer is not of the published form.
    """
    norm, sharpness = scorer.norm, scorer.attention_temperature or scorer.temperature
    if not isinstance(norm, nn.LayerNorm):
        raise ValueError("the published scorer has a LayerNorm: set model.scorer.layer_norm=true")

    def similarity(text: TextFeatures, image: ImageFeatures) -> Float[Tensor, "text image"]:
        kind = image.patches.dtype
        parameters = norm.weight.to(kind), norm.bias.to(kind)
        found = published.similarity(text.pooled.to(kind), image.patches, tau=sharpness().to(kind), norm=parameters)
        return found.float()

    return similarity


def _make(spec: dict[str, Any]) -> tuple[dict[str, Any], Turn]:
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    device = torch.device(spec["device"])
    overrides = list(spec["overrides"])
    if spec["variant"] != "published":
        overrides.append(f"model.scorer.implementation={spec['variant']}")
    config = load(TrainConfig, ROOT / Path(spec["config"]), overrides)
    model = build(config.model).to(device).train()
    scorer = model.scorer
    if not isinstance(scorer, SimilarityAttention):
        raise ValueError(f"{spec['config']}: its scorer is no similarity attention")
    optimizer = make_optimizer(model.parameter_groups(), config.optimizer)
    images, tokens, pairs = _batch(spec, model.tokenizer, config.model.preprocess.rows_columns, device)
    watch = Watch(Meter(device).wait)
    solved = published_similarity(scorer) if spec["variant"] == "published" else scorer.similarity
    scorer.similarity = watch.around(solved)  # type: ignore[method-assign, assignment]

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=spec["mixed"]):
            logits = model.score(model.encode_texts(tokens), model.encode_images(images)).logits
        config.objective(logits, pairs).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # compiles, remembers the sentences of a frozen text tower, makes the optimizer's state
    meter = Meter(device)

    def turn(wanted: str) -> dict[str, Any]:
        measured = meter.measure(step)
        return {
            "seconds": measured.seconds,
            "attention_seconds": watch.seconds,
            "peak_bytes": measured.peak_bytes,
        }

    return {"grid": model.grid, "width": config.model.dim}, turn


def _batch(
    spec: dict[str, Any], tokenizer: Callable[[list[str]], Tokens], size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tokens, Pairs]:
    """Random images, and sentences that all differ, the same number for each."""
    images, each = spec["images"], spec["texts_per_image"]
    pixels = torch.randint(0, 256, (images, 1, *size), dtype=torch.uint8, device=device)
    sentences = [f"There is finding {number} of the left lung." for number in range(images * each)]
    own = torch.eye(images, dtype=torch.bool, device=device).repeat_interleave(each, dim=0)
    return pixels, tokenizer(sentences).to(device), Pairs(positives=own.to(torch.int8), own=own)


if __name__ == "__main__":
    serve(_make)
