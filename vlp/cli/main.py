"""The `vlp` command: one verb per file, each importing what it needs only when it runs."""

import os
import sys

import typer

from vlp.cli.console import BAD_INPUT
from vlp.errors import VlpError

app = typer.Typer(
    name="vlp",
    help="Chest X-rays and reports in; zero-shot diagnosis with evidence, maps and case retrieval out.\n\n"
    "Research use, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Runs the command line; a `VlpError` becomes one plain line on stderr and exit status 2."""
    from vlp import log

    # Nothing is fetched or reported behind a person's back.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("WANDB_MODE", "offline")
    log.configure()
    try:
        app()
    except VlpError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
