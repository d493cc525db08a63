"""What ranks exchange, and the proof of it: 1, 2 and 4 processes have one loss and one gradient."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vlp.config import validate
from vlp.data.statements import Fact
from vlp.data.texts import Packing
from vlp.model.model import VisionLanguageModel, build
from vlp.records import Certainty
from vlp.tensors import Batch
from vlp.train.config import TrainConfig
from vlp.train.gather import gather_rows, gather_texts
from vlp.train.module import PretrainingModule

Change = Callable[[VisionLanguageModel], VisionLanguageModel]

SHARES = {1: (0, 9), 2: (0, 7, 9), 4: (0, 3, 4, 7, 9)}
"""Where the ranks' shares of the studies begin and end: ragged, and the last rank of several has no sentence."""
VIEWS = (1, 2, 1, 1, 2, 1, 1, 2, 1)
SAID: tuple[tuple[tuple[str, Certainty, str | None], ...], ...] = (
    (("pleural effusion", Certainty.PRESENT, "left lung"), ("pneumothorax", Certainty.ABSENT, None)),
    (("pneumothorax", Certainty.ABSENT, None),),
    (("cardiomegaly", Certainty.PRESENT, None), ("pneumothorax", Certainty.PRESENT, None),
     ("pleural effusion", Certainty.ABSENT, None)),
    (("pleural effusion", Certainty.UNCERTAIN, None), ("pneumothorax", Certainty.ABSENT, None)),
    (("cardiomegaly", Certainty.PRESENT, None),),
    (("pleural effusion", Certainty.PRESENT, None), ("cardiomegaly", Certainty.ABSENT, None)),
    (("nodule", Certainty.PRESENT, "right lung"), ("pneumothorax", Certainty.ABSENT, None)),
    (), (),
)  # fmt: skip
FLIPPED = {2: ("There is no cardiomegaly.", Fact(finding="cardiomegaly", certainty=Certainty.ABSENT))}

NCE, SIGMOID, SOFT = ({"kind": kind} for kind in ("multi_positive_nce", "multi_positive_sigmoid", "soft_targets"))
RUNS: dict[str, dict[str, Any]] = {
    "nce": {
        "objective": NCE,
        "terms": [{"on": "pooled", "objective": NCE, "weight": 0.5}, {"on": "image_image", "objective": NCE}],
        "text_weights": "distinct",
        "positives": {"contradiction": 2.0, "near_duplicate": 0.99},
        "hard_negatives": {"weight": 3.0},
    },
    "sigmoid": {
        "objective": SIGMOID,
        "terms": [{"on": "pooled", "objective": SIGMOID}, {"on": "image_image", "objective": SIGMOID},
                  {"on": "pooled", "objective": SOFT}],
        "text_weights": "study",
        "micro_batch": 1,
    },
}  # fmt: skip


def words(finding: str, certainty: Certainty, place: str | None) -> str:
    verb = {Certainty.PRESENT: "is", Certainty.ABSENT: "is no", Certainty.UNCERTAIN: "may be"}[certainty]
    return f"There {verb} {finding}{f' of the {place}' if place else ''}."


def batch_of(studies: range, model: VisionLanguageModel) -> Batch:
    """The batch of some of the studies; images and texts depend on the study alone."""
    packing, images, image_study = Packing(), [], []
    for number, study in enumerate(studies):
        facts = {words(*said): Fact(finding=said[0], certainty=said[1], location=said[2]) for said in SAID[study]}
        flips = dict([FLIPPED[study]]) if study in FLIPPED else {}
        packing.add(number, facts, flips=flips, known=tuple(facts.items()))
        rng = np.random.default_rng(study)
        images += [rng.integers(0, 256, size=(1, 32, 32), dtype=np.uint8) for _ in range(VIEWS[study])]
        image_study += [number] * VIEWS[study]
    return Batch(
        images=torch.from_numpy(np.stack(images)),
        padding=None,
        study=torch.tensor(image_study),
        keys=tuple(f"study {study}" for study in studies),
        position=0,
        **packing.tensors(model.tokenizer),
    )


class Step(nn.Module):
    """A training step as the forward pass that DistributedDataParallel wraps."""

    def __init__(self, config: TrainConfig, change: Change) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.module = PretrainingModule(change(build(config.model)).train(), config)

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def run_of(values: dict[str, Any], name: str, **changes: Any) -> TrainConfig:
    loader = values["loader"] | {"flips": {}}
    return validate(TrainConfig, values | {"loader": loader} | RUNS[name] | changes, where="test")


def outcome(step: Step, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {name: value.grad for name, value in step.module.model.named_parameters() if value.grad is not None}
    measured = {name: value for name, value in step.module.measured.items() if isinstance(value, torch.Tensor)}
    return found | measured | {"loss": loss.detach(), "images": torch.tensor(step.module.images)}


def relative_errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of each tensor's largest element; a bias of keys, on which no attention depends, against all gradients."""
    largest = max(float(value.abs().max()) for value in expected.values())
    scale = {
        what: largest if what.endswith("key.bias") else float(value.abs().max()) for what, value in expected.items()
    }
    return {what: float((found[what] - value).abs().max()) / scale[what] for what, value in expected.items()}


def alone(config: TrainConfig, change: Change) -> dict[str, torch.Tensor]:
    step = Step(config, change)
    loss = step(batch_of(range(*SHARES[1]), step.module.model))
    loss.backward()
    return outcome(step, loss)


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_have_the_loss_and_gradients_of_one(
    still_values: dict[str, Any], in_float64: Change, connected: Any, tmp_path: Path, world: int
) -> None:
    configs = {name: run_of(still_values, name) for name in RUNS}

    def work(rank: int) -> None:
        for name, config in configs.items():
            step = Step(config, in_float64)
            wrapped = DistributedDataParallel(step)
            loss = wrapped(batch_of(range(*SHARES[world][rank : rank + 2]), step.module.model))
            loss.backward()
            torch.save(outcome(step, loss), tmp_path / f"{name}-{rank}.pt")

    assert connected(world, work) == [0] * world
    for name in RUNS:
        # One process alone with neither micro-batches nor ranks is what all must agree with.
        expected = alone(run_of(still_values, name, micro_batch=None), in_float64)
        assert len(expected) > 30
        for rank in range(world):
            found = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert found.keys() == expected.keys()
            errors = relative_errors(found, expected)
            assert max(errors.values()) < 1e-9, (name, rank, max(errors, key=lambda what: errors[what]))


def test_the_shares_are_ragged_and_something_collides(still_values: dict[str, Any], in_float64: Change) -> None:
    step = Step(run_of(still_values, "nce"), in_float64)
    for bounds in (SHARES[2], SHARES[4]):
        sizes = [len(batch_of(range(*pair), step.module.model).sentence) for pair in itertools.pairwise(bounds)]
        assert sizes[-1] == 0
        assert len(set(sizes)) == len(sizes)
    step(batch_of(range(*SHARES[1]), step.module.model))
    for share in ("collisions", "ignored", "contradictions"):
        assert 0.0 < float(step.module.measured[share]) < 1.0


def tensors(batch: Batch, joined: Any) -> dict[str, torch.Tensor]:
    said = joined.said
    return {
        "said": torch.stack((said.identity, said.finding, said.location, said.certainty)),
        "sentence": joined.sentence,
        "owner": joined.owner,
        "flipped": joined.flipped,
        "study": joined.study,
        "known_study": joined.known_study,
        "every_study": joined.every_study,
        "first_image": torch.tensor(joined.first_image),
    }


@pytest.mark.parametrize("world", [2, 4])
def test_what_is_exchanged_is_the_joined_batch(
    values: dict[str, Any], connected: Any, tmp_path: Path, world: int
) -> None:
    model = build(run_of(values, "nce").model)

    def work(rank: int) -> None:
        batch = batch_of(range(*SHARES[world][rank : rank + 2]), model)
        torch.save(tensors(batch, gather_texts(batch, group=dist.group.WORLD)), tmp_path / f"{rank}.pt")

    assert connected(world, work) == [0] * world
    whole = batch_of(range(*SHARES[1]), model)
    first_image = 0
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        # No word of `gather`: the batch as one process packs it.
        assert torch.equal(found["said"][0], whole.said.identity)
        assert torch.equal(found["said"][1:], torch.stack((whole.said.finding, whole.said.location,
                                                           whole.said.certainty)))  # fmt: skip
        assert torch.equal(found["sentence"], whole.sentence)
        assert torch.equal(found["owner"], whole.owner)
        assert torch.equal(found["flipped"], whole.flipped)
        assert torch.equal(found["every_study"], whole.study)
        first, last = SHARES[world][rank : rank + 2]
        assert torch.equal(found["study"], whole.study[(whole.study >= first) & (whole.study < last)])
        known = whole.known_study
        assert torch.equal(found["known_study"], known[(known >= first) & (known < last)])
        assert int(found["first_image"]) == first_image
        first_image += sum(VIEWS[first:last])


def packed(model: VisionLanguageModel, *studies: Sequence[tuple[str, Fact | None]]) -> Batch:
    packing = Packing()
    for number, said in enumerate(studies):
        packing.add(number, dict(said), flips={}, known=())
    return Batch(
        images=torch.zeros(len(studies), 1, 32, 32, dtype=torch.uint8), padding=None, study=torch.arange(len(studies)),
        keys=tuple("abcdef"[: len(studies)]), position=0, **packing.tensors(model.tokenizer),
    )  # fmt: skip


def test_a_sentence_that_ranks_understand_differently_states_nothing(
    values: dict[str, Any], connected: Any, tmp_path: Path
) -> None:
    model = build(run_of(values, "nce").model)
    effusion, edema = (Fact(finding=name, certainty=Certainty.PRESENT) for name in ("pleural effusion", "edema"))
    shares: list[list[tuple[str, Fact | None]]] = [[("Fluid.", effusion), ("Clear.", edema)], [("Fluid.", edema)]]

    def work(rank: int) -> None:
        batch = packed(model, shares[rank])
        torch.save(tensors(batch, gather_texts(batch, group=dist.group.WORLD)), tmp_path / f"{rank}.pt")

    assert connected(2, work) == [0, 0]
    whole = packed(model, *shares)
    assert whole.said.finding.tolist()[0] == 0
    for rank in (0, 1):
        assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True)["said"][1], whole.said.finding)


def test_words_the_tokenizer_cannot_tell_apart_stay_two(values: dict[str, Any]) -> None:
    model = build(run_of(values, "nce").model)
    batch = packed(model, [("≈", None)], [("≠", None)], [("≈ ", None)])
    assert len(set(map(tuple, batch.tokens.ids.tolist()))) == 1
    joined = gather_texts(batch)
    assert joined.sentence.tolist() == [0, 1, 0]  # the third is the first but for white space
    vectors = torch.arange(6.0).view(3, 2)
    assert joined.texts(vectors).tolist() == [[0.0, 1.0], [2.0, 3.0]]


def test_rows_come_in_order_of_rank_and_gradients_go_home_summed(connected: Any, tmp_path: Path) -> None:
    counts, weights = (2, 0, 3), torch.tensor([1.0, 10.0, 100.0])

    def work(rank: int) -> None:
        rows = (torch.arange(2.0 * counts[rank]).view(-1, 2) + 100 * rank).requires_grad_()
        gathered = gather_rows(rows, counts=counts, rank=rank, group=dist.group.WORLD)
        (gathered * torch.arange(10.0).view(5, 2) * weights[rank]).sum().backward()
        torch.save({"rows": gathered.detach(), "gradient": rows.grad}, tmp_path / f"{rank}.pt")

    assert connected(3, work) == [0, 0, 0]
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(3)]
    for part in found:
        assert part["rows"].tolist() == [[0, 1], [2, 3], [200, 201], [202, 203], [204, 205]]
    joined = torch.cat([part["gradient"] for part in found])
    assert torch.equal(joined, torch.arange(10.0).view(5, 2) * weights.sum())


def test_a_process_alone_exchanges_nothing() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert gather_rows(rows, counts=(2,), rank=0, group=None) is rows
