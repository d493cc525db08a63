"""`vlp demo`: the whole line on a phantom archive, from nothing to a report, on the CPU."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from vlp.cli.console import print_table
from vlp.errors import ConfigError


def demo(
    configs: Annotated[Path, typer.Option(help="Folder with ingest/demo.yaml, train/demo.yaml, evaluate/demo.yaml.")] = Path(
        "configs"
    ),
) -> None:
    """Draw a phantom archive, shard it, pretrain, evaluate on held-out patients, index, and report.

    Everything lands in the folder of the training configuration (runs/demo).  What is finished is not done again;
    an interrupted run continues where it stopped.

    Example: vlp demo
    """
    from vlp.config import load
    from vlp.evaluate.config import EvaluateConfig
    from vlp.ingest.pipeline import IngestConfig
    from vlp.train.config import TrainConfig

    if not configs.is_dir():
        raise ConfigError(f"{configs}: no such folder; run this from the project's root, or pass --configs")
    stages = _Stages(total=5)
    ingest_config = load(IngestConfig, configs / "ingest" / "demo.yaml")
    train_config = load(TrainConfig, configs / "train" / "demo.yaml")
    evaluate_config = load(EvaluateConfig, configs / "evaluate" / "demo.yaml")
    run = train_config.output

    stages.begin("drawing a phantom archive and writing shards", ingest_config.output)
    from vlp.ingest.pipeline import ingest

    ingest(ingest_config)
    stages.begin("pretraining on the CPU", run)
    from vlp.train.run import train

    train(train_config)
    stages.begin("evaluating on patients the model has not seen", evaluate_config.output)
    from vlp.evaluate.run import evaluate

    results = evaluate(evaluate_config)
    stages.begin("building the retrieval index", run / "index")
    image = _index(train_config.output, ingest_config.output, evaluate_config.checkpoint)
    stages.begin("summing up", run)
    _sum_up(results, run, evaluate_config.checkpoint, image, seconds=stages.elapsed())


class _Stages:
    """Says what is being done, where it goes, and how long all of it took."""

    def __init__(self, *, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    def begin(self, what: str, where: Path) -> None:
        self._done += 1
        typer.echo(f"[{self._done}/{self._total}] {self.elapsed():5.0f} s  {what} -> {where}", err=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._started
