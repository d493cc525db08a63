import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from vlp.config import validate
from vlp.data import open_shards
from vlp.data.loader import make_loader
from vlp.inference.engine import Engine
from vlp.model.model import build
from vlp.objectives import ClipConfig, MultiPositiveNceConfig
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule, step_seed, term_name, wanted_positives


@pytest.fixture
def config(values: dict[str, Any]) -> TrainConfig:
    nce = {"kind": "multi_positive_nce"}
    terms = [{"objective": nce, "on": "pooled", "weight": 0.5}, {"objective": nce, "on": "image_image"}]
    loader = {"batch_studies": 8, "workers": 0, "images_per_study": "all"}
    return validate(TrainConfig, values | {"terms": terms, "loader": loader}, where="test")


@pytest.fixture
def module(config: TrainConfig) -> PretrainingModule:
    torch.manual_seed(0)
    return PretrainingModule(build(config.model).eval(), config)


def first_batch(config: TrainConfig, module: PretrainingModule, shards: Path) -> Batch:
    loader = make_loader(
        open_shards(shards),
        split="train",
        config=config.loader,
        preprocess=config.model.preprocess,
        tokenizer=module.model.tokenizer,
        train=True,
    )
    return next(iter(loader))


@pytest.fixture
def batch(config: TrainConfig, module: PretrainingModule, shards: Path) -> Batch:
    return first_batch(config, module, shards)


def test_the_loss_is_the_weighted_sum_of_its_terms(module: PretrainingModule, batch: Batch) -> None:
    loss = module.training_step(batch, 0)
    logits = module.model.score_batch(batch)
    scores = MultiPositiveNceConfig()(logits, batch.positives())
    measured = {name: float(value) for name, value in module.measured.items()}
    assert measured["loss_scores"] == pytest.approx(float(scores.detach()), rel=1e-5)
    assert float(loss) == pytest.approx(
        measured["loss_scores"] + measured["loss_pooled"] + measured["loss_image_image"], rel=1e-5
    )
    images = module.model.embed_images(module.model.encode_images(batch.images, padding=batch.padding))
    texts = module.model.embed_texts(module.model.encode_texts(batch.tokens))
    cosines = (texts @ images.T)[batch.sentence] / 0.07
    assert measured["loss_pooled"] == pytest.approx(
        0.5 * float(MultiPositiveNceConfig()(cosines, batch.positives())), rel=1e-4
    )


def test_losses_stay_float32_under_autocast(module: PretrainingModule, batch: Batch) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(batch, 0)
    assert loss.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in module.measured.values() if isinstance(value, torch.Tensor))


def test_columns_announce_all_that_is_measured(module: PretrainingModule, batch: Batch) -> None:
    module.training_step(batch, 0)
    assert set(module.measured) <= set(module.columns)
    assert set(module.columns) - set(module.measured) == {
        "lr", "gradient_norm", "temperature", "attention_temperature"
    }  # fmt: skip


def test_clipping_notes_the_norm_before_and_limits_the_gradient(module: PretrainingModule, batch: Batch) -> None:
    optimizer = module.configure_optimizers()
    module.training_step(batch, 0).backward()
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    before = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    module.configure_gradient_clipping(optimizer)
    after = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    assert float(module.measured["gradient_norm"]) == pytest.approx(before, rel=1e-4)
    assert before > 1.0
    assert after == pytest.approx(1.0, rel=1e-3)


def test_every_learning_parameter_gets_a_gradient(module: PretrainingModule, batch: Batch) -> None:
    module.training_step(batch, 0).backward()
    groups = module.model.parameter_groups()
    assert all(parameter.grad is not None for parameters in groups.values() for parameter in parameters)


def test_clip_gets_ownership_and_nce_gets_the_collisions(batch: Batch) -> None:
    own = wanted_positives(batch, ClipConfig())
    aware = wanted_positives(batch, MultiPositiveNceConfig())
    assert (own <= aware).all()
    assert int(aware.sum()) > int(own.sum())  # the tiny archive repeats its six sentences


def test_clip_on_whole_reports_pairs_each_with_its_own_image(values: dict[str, Any], shards: Path) -> None:
    loader = {"batch_studies": 8, "workers": 0, "texts": "report", "images_per_study": 1}
    settings = values | {"loader": loader, "objective": {"kind": "clip"}}
    settings["model"] = settings["model"] | {"scorer": {"kind": "cosine"}}
    config = validate(TrainConfig, settings, where="test")
    module = PretrainingModule(build(config.model).eval(), config)
    batch = first_batch(config, module, shards)
    assert batch.tokens.ids.shape[0] < len(batch.keys)  # some reports say the same, word for word
    assert int(batch.positives().sum()) > len(batch.keys)
    logits, own = module.model.score_batch(batch), torch.arange(len(batch.keys))
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert float(module.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("scorer", ["cosine", "similarity_attention"])
def test_letterboxed_images_are_scored_in_training_as_by_the_engine(
    values: dict[str, Any], shards: Path, scorer: str
) -> None:
    wide = {"preprocess": {"size": [32, 48]}, "scorer": {"kind": scorer}}  # the images are squares: bars at both sides
    settings = values | {"loader": {"batch_studies": 8, "workers": 0, "augment": None}}
    config = validate(TrainConfig, settings | {"model": settings["model"] | wide}, where="test")
    module, reader = PretrainingModule(build(config.model).eval(), config), open_shards(shards)
    batch = first_batch(config, module, shards)
    assert batch.padding is not None
    studies = [reader.study(key) for key in batch.keys]
    texts = [sentence.text for study in studies for sentence in study.sentences]
    frontal = [reader.sample(key).frontal[0] for key in batch.keys]
    engine = Engine(module.model, batch_images=3)
    features, _ = engine.features([reader.image(key, index) for key, index in zip(batch.keys, frontal, strict=True)])
    answered = torch.from_numpy(engine.scores(texts, features)[1])
    torch.testing.assert_close(module.model.score_batch(batch), answered, rtol=1e-4, atol=1e-4)
    loss = MultiPositiveNceConfig()(answered, batch.positives())
    assert float(module.training_step(batch, 0)) == pytest.approx(float(loss), rel=1e-4)
    blind = module.model.score_batch(replace(batch, padding=None))
    assert not torch.allclose(blind, answered, atol=1e-2)


def test_terms_on_the_same_thing_get_numbers(values: dict[str, Any]) -> None:
    term = {"objective": {"kind": "multi_positive_nce"}, "on": "pooled"}
    config = validate(TrainConfig, values | {"terms": [term, term | {"on": "image_image"}, term]}, where="test")
    assert [term_name(config, number) for number in range(3)] == ["loss_pooled1", "loss_image_image", "loss_pooled3"]


def test_steps_and_ranks_have_seeds_of_their_own() -> None:
    seeds = [step_seed(seed, step, rank) for seed in range(4) for step in range(500) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
    torch.manual_seed(max(seeds))
