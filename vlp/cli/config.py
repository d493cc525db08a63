"""`vlp config`: show, check, compare and describe configurations."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlp.cli.console import FAILED_CHECK, print_json, print_table
from vlp.cli.train import train_config_type
from vlp.config import Config, dump, load
from vlp.errors import ConfigError

app = typer.Typer(help="Show, check, compare and describe configurations.", no_args_is_help=True, rich_markup_mode=None)

Kind = Literal["ingest", "train", "evaluate", "calibrate"]
KINDS: tuple[Kind, ...] = ("ingest", "train", "evaluate", "calibrate")

ConfigPath = Annotated[Path, typer.Argument(help="A file like configs/train/demo.yaml; its folder names its kind.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]


def config_type(kind: Kind) -> type[Config]:
    """The class that files under configs/<kind>/ must satisfy."""
    if kind == "ingest":
        from vlp.ingest.pipeline import IngestConfig

        return IngestConfig
    if kind == "train":
        from vlp.train.config import TrainConfig

        return TrainConfig
    if kind == "calibrate":
        from vlp.calibrate.config import CalibrateConfig

        return CalibrateConfig
    from vlp.evaluate.config import EvaluateConfig

    return EvaluateConfig


def type_of(path: Path) -> type[Config]:
    """The class that a file must satisfy: by its folder, and under configs/train by the kind it names itself.

    Raises:
        ConfigError: as `kind_of` and `train_config_type` do.
    """
    kind = kind_of(path)
    return train_config_type(path) if kind == "train" else config_type(kind)


def kind_of(path: Path) -> Kind:
    """Which verb a configuration is for: the nearest folder of its path that is named after one.

    Raises:
        ConfigError: when no folder of the path is named ingest, train, evaluate or calibrate.
    """
    for part in reversed(path.absolute().parts[:-1]):
        for kind in KINDS:
            if part == kind:
                return kind
    raise ConfigError(f"{path}: cannot tell what it configures; keep it in a folder named {', '.join(KINDS)}")


@app.command()
def show(path: ConfigPath, overrides: Overrides = None) -> None:
    """Print the resolved configuration: parents merged, overrides applied, defaults filled in."""
    typer.echo(dump(load(type_of(path), path, overrides or [])), nl=False)


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="Files to check.")]) -> None:
    """Check files without running them; one plain line per fault, exit status 1 if there is any."""
    faults = 0
    for path in paths:
        try:
            load(type_of(path), path)
        except ConfigError as error:
            typer.echo(str(error), err=True)
            faults += 1
        else:
            typer.echo(f"{path}: good")
    if faults:
        raise typer.Exit(FAILED_CHECK)


@app.command()
def diff(first: ConfigPath, second: ConfigPath) -> None:
    """Show every key in which two configurations differ."""
    values = [_flatten(load(type_of(path), path).model_dump(mode="json")) for path in (first, second)]
    keys = sorted({*values[0], *values[1]})
    rows = [
        (key, str(values[0].get(key, "-")), str(values[1].get(key, "-")))
        for key in keys
        if values[0].get(key, "-") != values[1].get(key, "-")
    ]
    if rows:
        print_table("Differences", ("key", str(first), str(second)), rows)
    else:
        typer.echo("no difference")


@app.command()
def schema(kind: Annotated[str, typer.Argument(help="ingest, train, evaluate or calibrate")]) -> None:
    """Print the JSON schema of a kind of configuration, for editors that complete and check as you type."""
    for known in KINDS:
        if kind == known:
            print_json(config_type(known).model_json_schema())
            return
    raise ConfigError(f"{kind!r} is not a kind of configuration; there are {', '.join(KINDS)}")


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if isinstance(value, dict) and value:
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in _flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: value}
