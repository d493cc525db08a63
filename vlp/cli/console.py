"""What every verb shares: tables for people, `--json` for programs, and one way to fail.

Exit status: 0 done, 1 the check that was asked for found something, 2 the input or the surroundings are wrong.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FAILED_CHECK = 1
BAD_INPUT = 2

_FILE_WIDTH = 140
"""Columns of a table that goes to a file or a pipe, where nobody's window limits it."""


def print_json(value: Any) -> None:
    """Writes `value` as one JSON document to stdout."""
    json.dump(value, sys.stdout, indent=2, sort_keys=False, ensure_ascii=False, default=str)
    sys.stdout.write("\n")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, note: str = "") -> None:
    """Draws a table on stdout; numbers are aligned to the right, `note` stands below."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(_shown(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    console.print(table)
    if note:
        console.print(Text(note), style="dim")


def print_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Draws named values, one per line."""
    print_table(title, ("what", "value"), [(name, str(value)) for name, value in facts.items()])


def _shown(cell: Any) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
