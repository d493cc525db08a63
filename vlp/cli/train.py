"""`vlp train`: start a pretraining run, or continue it, with the same command."""

from pathlib import Path
from typing import Annotated

import typer

from vlp.cli.console import print_facts, print_json


def train(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A file like configs/train/demo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes, e.g. max_steps=100 loader.workers=4")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the summary for programs.")] = False,
) -> None:
    """Pretrain on shards.  The same command starts a run and, after any interruption, continues it.

    The run folder (`output`) gets config.yaml, metrics.csv, log.txt and checkpoints/; checkpoints/final is the model.
    A run of another configuration in that folder is refused, with the keys that differ.  Ctrl+C, SIGTERM and SIGUSR1
    end the step, save, and stop with exit status 128 + the signal's number (130, 143, 138).

    Example: vlp train configs/train/demo.yaml max_minutes=2
    """
    from vlp import log
    from vlp.config import load
    from vlp.train.config import TrainConfig
    from vlp.train.run import train as train_run
    from vlp.train.watching.logbook import summary

    run = train_run(load(TrainConfig, path, overrides or []))
    if log.rank() != 0:
        return  # one process of a group answers
    facts = summary(run)
    if json_:
        print_json(facts)
    else:
        print_facts("Training", {name: value for name, value in facts.items() if value is not None})
        typer.echo(f"Try: vlp classify {facts['checkpoint']} IMAGE", err=True)
