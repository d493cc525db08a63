"""`vlp demo`: the whole line on a phantom archive, from nothing to a report, on the CPU."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlp.cli.evaluate import show
from vlp.errors import ConfigError

if TYPE_CHECKING:
    from vlp.data import ShardReader

_EXAMPLE_FINDING = "pleural effusion"


def demo(
    *,
    configs: Annotated[
        Path, typer.Option(help="Folder with ingest/demo.yaml, train/demo.yaml and evaluate/demo.yaml.")
    ] = Path("configs"),
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
    archive = load(IngestConfig, configs / "ingest" / "demo.yaml")
    pretraining = load(TrainConfig, configs / "train" / "demo.yaml")
    evaluation = load(EvaluateConfig, configs / "evaluate" / "demo.yaml")
    run, index = pretraining.output, pretraining.output / "index"
    stages = _Stages(total=4)

    stages.begin("draw a phantom archive and write shards", Path(archive.output))
    from vlp.ingest.pipeline import ingest

    ingest(archive)
    stages.begin("pretrain on the CPU", run)
    from vlp.train.run import train

    train(pretraining)
    stages.begin("evaluate on patients the model has not seen", evaluation.output)
    from vlp.evaluate.run import evaluate

    results = evaluate(evaluation)
    stages.begin("index the archive for case retrieval", index)
    from vlp.data import open_shards
    from vlp.inference.engine import load as load_engine
    from vlp.retrieval.index import build

    reader = open_shards(archive.output)
    build(load_engine(evaluation.checkpoint), reader, index)
    image, person = _example_image(reader, run)
    show(results, evaluation.output, as_json=False)
    typer.echo(f"\nDone in {stages.elapsed() / 60:.1f} minutes.  Report: {evaluation.output / 'report.html'}")
    typer.echo(_next_steps(evaluation.checkpoint, index, image, person))


class _Stages:
    """Says what is being done, where it goes, and how long it all took."""

    def __init__(self, *, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    def begin(self, what: str, where: Path) -> None:
        self._done += 1
        typer.echo(f"[{self._done}/{self._total}] {what} -> {where}  ({self.elapsed():.0f} s so far)", err=True)

    def elapsed(self) -> float:
        return time.monotonic() - self._started


def _example_image(reader: "ShardReader", run: Path) -> tuple[Path, str]:
    """The first held-out radiograph with the example finding (else the first), as a file, and whose it is."""
    from vlp.records import Certainty

    keys = reader.keys("test")
    with_finding = (key for key in keys if reader.study(key).labels.get(_EXAMPLE_FINDING) is Certainty.PRESENT)
    key = next(with_finding, keys[0])
    path = run / f"example.{reader.manifest.image_format}"
    partial = path.with_suffix(".partial")
    partial.write_bytes(reader.encoded(key, 0))
    os.replace(partial, path)
    return path, reader.study(key).person.id


def _next_steps(checkpoint: Path, index: Path, image: Path, person: str) -> str:
    commands = (
        f"vlp classify {checkpoint} {image}",
        f'vlp ground {checkpoint} {image} "There is {_EXAMPLE_FINDING}."',
        f"vlp index search {index} --checkpoint {checkpoint} --image {image} --exclude-person {person}",
        "vlp ingest configs/ingest/shared_sample.yaml",
    )
    return "Try next (in the environment: source .venv/bin/activate):\n" + "\n".join(f"  {line}" for line in commands)
