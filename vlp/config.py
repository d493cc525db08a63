"""Strict, frozen configuration: one YAML file per run, one parent, dotted overrides, plain errors.

A configuration class lives beside what it configures and derives from `Config`.  Files are YAML 1.2: `1e-4` is a
number and only `true` and `false` are booleans.  `extends: other.yaml` takes one parent; mappings merge, anything
else replaces, and a mapping whose `kind` changes starts afresh.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from vlp.errors import ConfigError

_MAX_PARENTS = 8

ConfigType = TypeVar("ConfigType", bound="Config")


class Config(BaseModel):
    """Base of every configuration: unknown keys and wrong types are errors, instances cannot change."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", use_attribute_docstrings=True)


def load(config_type: type[ConfigType], path: Path, overrides: Sequence[str] = ()) -> ConfigType:
    """The configuration in `path`, with `key.path=value` overrides applied.

    Raises:
        ConfigError: one line per fault, each naming the file and the key.
    """
    values = read_values(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {override!r}: expected key.path=value")
        _assign(values, key.split("."), _parse(text, where=f"override {override!r}"), override)
    return validate(config_type, values, where=str(path))


def validate(config_type: type[ConfigType], values: dict[str, Any], *, where: str) -> ConfigType:
    """The configuration `values` describe; `where` names their origin in error messages."""
    try:
        # JSON mode lets lists become tuples and strings become paths while numbers in quotes stay refused.
        return config_type.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(config_type, fault, where) for fault in error.errors())) from None


def dump(config: Config) -> str:
    """The resolved configuration as YAML that `load` reads back to an equal object."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Yaml12Dumper, sort_keys=False, width=100)


def read_values(path: Path, *, depth: int = 0) -> dict[str, Any]:
    """The plain values of a configuration file, its parents merged in.

    Raises:
        ConfigError: for a missing file, broken YAML, or a chain of parents that does not end.
    """
    if depth > _MAX_PARENTS:
        raise ConfigError(f"{path}: more than {_MAX_PARENTS} parents; does a file extend itself?")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot read the configuration: {reason}") from None
    values = _parse(text, where=str(path)) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    merged: dict[str, Any] = _merge(read_values(path.parent / str(parent), depth=depth + 1), values)
    return merged


class _Yaml12(yaml.SafeLoader):
    """YAML 1.2 scalars: 1e-4 is a number; only true and false are booleans; dates stay text."""


_REPLACED = {f"tag:yaml.org,2002:{name}" for name in ("float", "bool", "timestamp")}
_Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag not in _REPLACED]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"^[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|false)$"), list("tf"))


class _Yaml12Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or our reading of 1.2 would take for something else, e.g. "0E0" or "off"."""


_Yaml12Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _parse(text: str, *, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Yaml12)  # a SafeLoader: no code runs
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _merge(base: Any, top: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(top, dict)):
        return top
    if "kind" in top and top["kind"] != base.get("kind"):
        return top
    return base | {key: _merge(base.get(key), value) for key, value in top.items()}


def _assign(node: Any, keys: list[str], value: Any, override: str) -> None:
    *parents, last = keys
    try:
        for key in parents:
            node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise ConfigError(f"override {override!r}: there is no such place in the configuration") from None


def _explain(config_type: type[Config], fault: Any, where: str) -> str:
    location = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(config_type, fault["loc"][:-1])
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(sorted(known)) or 'none'}"
        return f"{where}: {location}: unknown key; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if isinstance(fault["input"], dict):  # a fault between keys: repeating all of them explains nothing
        return f"{where}: {location}: {message}" if location else f"{where}: {message}"
    return f"{where}: {location}: {message} (got {fault['input']!r:.80})"


def _known_keys(config_type: type[Config], location: Sequence[str | int]) -> list[str]:
    """Field names of the model that stands at `location`; tags of unions appear in it as their own parts."""
    models: list[type[BaseModel]] = [config_type]
    for part in location:
        inside = [nested for model in models for nested in _models_at(model, part)]
        models = inside or models
    return sorted({name for model in models for name in model.model_fields})


def _models_at(model: type[BaseModel], part: str | int) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    return [] if field is None else _models_in(field.annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
