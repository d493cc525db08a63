"""How many images a second small image towers learn from on a CPU: forward, backward and an AdamW step.

    python -m benchmarks.towers [--threads 1 2] [--images 32] [--rounds 5] [--json] [--append]

Towers at 128 x 128 px, one channel.  "tower" is the image tower alone; "step" is a whole training step of a model with
it: 64 distinct sentences per 32 images (their vectors already remembered, as with a frozen text tower), similarity
attention, the multi-positive objective.  Towers take turns within a round, so that a slow moment hits all of them; the
value is the median over rounds, the range its smallest and largest.  The baseline of every ratio is "patch8_vit128".
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from benchmarks.line import Line, append
from vlp.cli.console import print_json, print_table
from vlp.model.scorers import SimilarityAttentionConfig
from vlp.model.towers import TimmTowerConfig
from vlp.objectives import multi_positive_nce
from vlp.objectives.pairs import Pairs
from vlp.tensors import TextFeatures

SIZE = (128, 128)
BASELINE = "patch8_vit128"
_VIT = "vit_tiny_patch16_224"


def _vit(patch: int, width: int, depth: int, *, stem: str) -> TimmTowerConfig:
    arguments = {"patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": width // 32}
    return TimmTowerConfig.model_validate({"name": _VIT, "arguments": arguments, "stem": stem})


TOWERS = {
    BASELINE: _vit(8, 128, 4, stem="patch"),
    "conv8_vit128": _vit(8, 128, 4, stem="conv"),
    "conv8_vit192": _vit(8, 192, 4, stem="conv"),
    "conv16_vit192": _vit(16, 192, 4, stem="conv"),
    "patch16_vit192": _vit(16, 192, 4, stem="patch"),
    "resnet10t_stride8": TimmTowerConfig(name="resnet10t", stage=2),
    "resnet10t_stride16": TimmTowerConfig(name="resnet10t", stage=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--images", type=int, default=32, help="images in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--append", action="store_true", help="add the lines to benchmarks/results/")
    options = parser.parse_args()
    lines = [
        line for threads in options.threads for line in measure(threads, images=options.images, rounds=options.rounds)
    ]
    if options.append:
        append(lines)
    if options.json:
        print_json([asdict(line) for line in lines])
        return
    rows = [(line.case, line.threads, line.metric, line.value, line.low, line.high, line.ratio) for line in lines]
    print_table(
        "Image towers at 128 px, forward + backward + AdamW",
        ("tower", "threads", "what", "images/s", "slowest", "fastest", f"/ {BASELINE}"),
        rows,
    )


def measure(threads: int, *, images: int, rounds: int) -> list[Line]:
    """Lines for every tower at a number of threads."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    steps = {(name, what): make(config, images) for name, config in TOWERS.items() for what, make in _KINDS.items()}
    for step in steps.values():
        step()
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for _ in range(rounds):
        for key, step in steps.items():
            started = time.perf_counter()
            step()
            rates[key].append(images / (time.perf_counter() - started))
    middle = {key: statistics.median(values) for key, values in rates.items()}
    return [
        Line(
            benchmark="towers",
            case=name,
            metric=f"{what}_images_per_s",
            value=middle[name, what],
            low=min(values),
            high=max(values),
            unit="images/s",
            baseline=BASELINE,
            ratio=middle[name, what] / middle[BASELINE, what],
            threads=threads,
        )
        for (name, what), values in rates.items()
    ]


def _tower_step(config: TimmTowerConfig, images: int) -> Callable[[], None]:
    tower = config.build(size=SIZE, channels=1, saved=None).train()
    optimizer = torch.optim.AdamW(tower.parameters())
    pixels = torch.randn(images, 1, *SIZE)

    def step() -> None:
        tower(pixels).patches.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _whole_step(config: TimmTowerConfig, images: int) -> Callable[[], None]:
    tower = config.build(size=SIZE, channels=1, saved=None).train()
    scorer = SimilarityAttentionConfig().build(dim=tower.width)
    optimizer = torch.optim.AdamW([*tower.parameters(), *scorer.parameters()])
    pixels = torch.randn(images, 1, *SIZE)
    texts = TextFeatures(pooled=torch.randn(2 * images, tower.width))
    own = torch.eye(images, dtype=torch.int8).repeat_interleave(2, dim=0)
    pairs = Pairs(positives=own, own=own.bool())

    def step() -> None:
        multi_positive_nce(scorer(texts, tower(pixels)).logits, pairs).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


_KINDS = {"tower": _tower_step, "step": _whole_step}


if __name__ == "__main__":
    main()
