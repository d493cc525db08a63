"""The `vlp` command: one verb per file, each importing what it needs only when it runs."""

import os
import signal
import sys

import typer

from vlp.cli import config, index, prompts, shards
from vlp.cli.calibrate import calibrate
from vlp.cli.classify import classify
from vlp.cli.console import BAD_INPUT
from vlp.cli.demo import demo
from vlp.cli.doctor import doctor
from vlp.cli.embed import embed
from vlp.cli.evaluate import evaluate
from vlp.cli.explain import explain
from vlp.cli.ground import ground
from vlp.cli.ingest import ingest
from vlp.cli.report import report
from vlp.cli.train import train
from vlp.errors import VlpError
from vlp.train.signals import Stopped

app = typer.Typer(
    name="vlp",
    help="Chest X-rays and reports in; zero-shot diagnosis with evidence, maps and case retrieval out.\n\n"
    "Research use, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command()(ingest)
app.add_typer(shards.app, name="shards")
app.command()(train)
app.command()(evaluate)
app.command()(calibrate)
app.command()(explain)
app.command()(report)
app.command()(classify)
app.command()(ground)
app.add_typer(prompts.app, name="prompts")
app.command()(embed)
app.add_typer(index.app, name="index")
app.add_typer(config.app, name="config")
app.command()(doctor)
app.command()(demo)


def main() -> None:
    """Runs the command line; a `VlpError` becomes one plain line on stderr and exit status 2.

    Work that a signal ended exits with 128 + the signal's number, as a shell would say it: 130 for Ctrl+C, 143 for
    SIGTERM, 138 for SIGUSR1.
    """
    from vlp import log

    # Nothing is fetched or reported behind a person's back.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("WANDB_MODE", "offline")
    # Threads that wait for work sleep; by default they spin, and take the core from a worker that decodes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log.configure()
    try:
        app()
    except VlpError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except Stopped as stopped:
        print("stopped", file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
