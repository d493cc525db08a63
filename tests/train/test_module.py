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
from vlp.objectives import ALONE, Pairs, multi_positive_nce
from vlp.objectives.positives import PositivesConfig, find_positives, own_pairs
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.module import PretrainingModule, step_seed, term_name


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


def positives_of(batch: Batch) -> Pairs:
    """What is true of what, by the rules as they are, straight from the batch."""
    found = find_positives(
        PositivesConfig(), said=batch.said, sentence=batch.sentence, flipped=batch.flipped, owner=batch.owner,
        study=batch.study, known=batch.known, known_study=batch.known_study,
    )  # fmt: skip
    return Pairs(positives=found.positives, own=own_pairs(batch.owner, batch.study, batch.flipped))


@pytest.fixture
def batch(config: TrainConfig, module: PretrainingModule, shards: Path) -> Batch:
    return first_batch(config, module, shards)


def test_the_loss_is_the_weighted_sum_of_its_terms(module: PretrainingModule, batch: Batch) -> None:
    loss = module.training_step(batch, 0)
    logits = module.model.score_batch(batch)
    pairs = positives_of(batch)
    scores = multi_positive_nce(logits, pairs)
    measured = {name: float(value) for name, value in module.measured.items()}
    assert measured["loss_scores"] == pytest.approx(float(scores.detach()), rel=1e-5)
    assert loss.item() == pytest.approx(
        measured["loss_scores"] + measured["loss_pooled"] + measured["loss_image_image"], rel=1e-5
    )
    images = module.model.embed_images(module.model.encode_images(batch.images, padding=batch.padding))
    texts = module.model.embed_texts(module.model.encode_texts(batch.tokens))
    cosines = (texts @ images.T)[batch.sentence] / 0.07
    assert measured["loss_pooled"] == pytest.approx(0.5 * float(multi_positive_nce(cosines, pairs)), rel=1e-4)


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


def test_every_shipped_objective_learns_from_the_same_batch(
    values: dict[str, Any], module: PretrainingModule, batch: Batch
) -> None:
    """What each needs of the pairs (positives, ownership, agreement) reaches it."""
    losses = {}
    for kind in ("multi_positive_nce", "multi_positive_sigmoid", "siglip", "soft_targets"):
        module.config = validate(TrainConfig, values | {"objective": {"kind": kind}}, where="test")
        loss = module.training_step(batch, 0)
        loss.backward()
        losses[kind] = loss.item()
        assert math.isfinite(loss.item())
    assert len(set(losses.values())) == len(losses)


def test_a_step_reports_its_collisions(module: PretrainingModule, batch: Batch) -> None:
    module.training_step(batch, 0)
    pairs = positives_of(batch)
    collisions = (pairs.positives == 1) & ~pairs.own
    assert float(module.measured["collisions"]) == pytest.approx(float(collisions.sum() / (~pairs.own).sum()))
    assert float(module.measured["collisions"]) > 0.1  # the tiny archive repeats its six sentences
    assert float(module.measured["contradictions"]) > 0.1
    assert module.images == batch.num_images


def test_flipped_sentences_count_as_the_ramp_says(
    values: dict[str, Any], module: PretrainingModule, shards: Path
) -> None:
    changes = {"loader": values["loader"] | {"flips": {"per_study": 2}}, "text_weights": "study",
               "hard_negatives": {"weight": 4.0, "ramp_steps": 2}}  # fmt: skip
    config = module.config = validate(TrainConfig, values | changes, where="test")
    batch = first_batch(config, module, shards)
    assert batch.flipped.any()
    losses = []
    for step in range(4):
        module.step = step
        losses.append(module.training_step(batch, 0).item())
    assert losses[0] < losses[1] < losses[2] == losses[3]
    module.config = validate(TrainConfig, values | changes | {"hard_negatives": {"weight": 2.0}}, where="test")
    assert module.training_step(batch, 0).item() == losses[1]


def test_near_duplicates_are_told_by_the_models_own_vectors(
    values: dict[str, Any], module: PretrainingModule, batch: Batch
) -> None:
    for cosine, compared in ((-1.0, None), (1e-3, True)):
        near = cosine if compared else None
        module.config = validate(TrainConfig, values | {"positives": {"near_duplicate": near}}, where="test")
        module.training_step(batch, 0)
        # An untrained tower finds all sentences alike: whatever neither agrees nor contradicts is left out.
        ignored = float(module.measured["ignored"])
        rest = 1.0 - float(module.measured["collisions"]) - float(module.measured["contradictions"])
        assert ignored == pytest.approx(rest if compared else 0.0, abs=1e-6)


def test_weights_that_are_no_numbers_give_a_loss_that_is_none_and_no_error(
    module: PretrainingModule, batch: Batch
) -> None:
    """Another process may wait for this one: it must come to the end of its step, where the guard looks."""
    with torch.no_grad():
        module.model.text_head.weight.fill_(torch.nan)
    loss = module.training_step(batch, 0)
    assert torch.isnan(loss)
    loss.backward()
    assert all(value.grad is not None for value in module.model.image_tower.parameters() if value.requires_grad)


def test_parameters_without_a_part_in_any_score_are_named(values: dict[str, Any]) -> None:
    align = {"layers": 1, "global_token": False}
    model = values["model"] | {"align": align, "scorer": {"kind": "cosine"}}
    config = validate(TrainConfig, values | {"model": model}, where="test")
    module = PretrainingModule(build(config.model).train(), config)
    assert module.idle_parameters() == []
    module.model.scorer.spare = torch.nn.Parameter(torch.zeros(1))
    before = {name: value.clone() for name, value in module.model.state_dict().items()}
    assert module.idle_parameters() == ["scorer.spare"]
    assert module.model.training
    assert all(torch.equal(value, before[name]) for name, value in module.model.state_dict().items())
    assert all(parameter.grad is None for parameter in module.model.parameters())


def test_clip_on_whole_reports_pairs_each_with_its_own_image(values: dict[str, Any], shards: Path) -> None:
    loader = {"batch_studies": 8, "workers": 0, "texts": "report", "images_per_study": 1}
    settings = values | {"loader": loader, "objective": {"kind": "clip"}}
    settings["model"] = settings["model"] | {"scorer": {"kind": "cosine"}}
    config = validate(TrainConfig, settings, where="test")
    module = PretrainingModule(build(config.model).eval(), config)
    batch = first_batch(config, module, shards)
    assert batch.tokens.ids.shape[0] < len(batch.keys)  # some reports say the same, word for word
    assert int((positives_of(batch).positives == 1).sum()) > len(batch.keys)
    logits, own = module.model.score_batch(batch), torch.arange(len(batch.keys))
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert module.training_step(batch, 0).item() == pytest.approx(float(expected), rel=1e-5)


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
    loss = multi_positive_nce(answered, positives_of(batch), across=ALONE)
    assert module.training_step(batch, 0).item() == pytest.approx(float(loss), rel=1e-4)
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
