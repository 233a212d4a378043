"""YAML files and `--section.key value` overrides read into a typed config, all faults reported at once."""

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from data_prep.errors import ConfigError

Model = TypeVar("Model", bound="Section")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-5 is a number: there it must be written 1.0e-5."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


class Section(BaseModel):
    """A part of a config: unknown keys are errors, and nothing changes after it was read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def load_config(model: type[Model], path: Path | None, overrides: Sequence[str] = ()) -> Model:
    """Read `path` (None: nothing but overrides), apply the overrides, validate.

    Overrides are `--section.key value` or `--section.key=value`, values written as in YAML.
    Raises ConfigError listing every fault, each with its key and, for a misspelt key, the nearest one.
    """
    values = _read(path) if path is not None else {}
    pairs = parse_overrides(overrides)
    for key, value in pairs:
        _set(values, key, value)
    if path is None:
        return validate(model, values, "command line")
    return validate(model, values, str(path), {key for key, _ in pairs})


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start}: not UTF-8; save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        found = type(values).__name__
        raise ConfigError(f"{path}: expected keys and values at the top level, found a {found}")
    return values


def validate(
    model: type[Model], values: dict[str, Any], origin: str, overridden: Collection[str] = ()
) -> Model:
    """Check plain values against the config type; ConfigError lists every fault, with where its value is from:
    `origin`, the command line for keys in `overridden`, or both for a section with some of them."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            at = ".".join(map(str, fault["loc"])) + "."
            place = origin
            if any(at.startswith(f"{key}.") for key in overridden):
                place = "command line"
            elif any(f"{key}.".startswith(at.lstrip(".")) for key in overridden):
                place = f"{origin} with the command line"
            lines.append(f"{place}: {_describe(model, dict(fault))}")
        raise ConfigError("\n".join(lines)) from error


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """`--a.b 1 --c=x` as [("a.b", 1), ("c", "x")]."""
    pairs = []
    remaining = list(arguments)
    while remaining:
        flag = remaining.pop(0)
        if not flag.startswith("--"):
            raise ConfigError(f"unexpected argument {flag!r}: expected --section.key value")
        key, equals, text = flag[2:].partition("=")
        if not equals:
            if not remaining:
                raise ConfigError(f"{flag}: expected a value after it")
            text = remaining.pop(0)
        try:
            pairs.append((key, read_yaml(text)))
        except yaml.YAMLError as error:
            raise ConfigError(f"{flag}: the value {text!r} is not valid YAML") from error
    return pairs


def split_command_line(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """(file after --config, overrides); --local_rank, which launchers add, is dropped."""
    remaining, overrides = list(arguments), []
    config: Path | None = None
    while remaining:
        argument = remaining.pop(0)
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "--local_rank", "--local-rank"):
            overrides.append(argument)
            continue
        if not equals:
            if not remaining:
                raise ConfigError(f"{flag}: expected a value after it")
            value = remaining.pop(0)
        if flag == "--config":
            config = Path(value)
    return config, overrides


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for name in parents:
        below = values.get(name)
        if not isinstance(below, dict):
            below = values[name] = {}
        values = below
    values[last] = value


def _describe(model: type[BaseModel], fault: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "config"
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{place}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{place}: missing; a value is required"
    message = fault["msg"].removeprefix("Value error, ")
    if isinstance(fault["input"], dict) and fault["type"] == "value_error":
        return f"{place}: {message}"  # of a whole section: it says itself what it found
    return f"{place}: {message} (found {fault['input']!r})"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the section that `location` leads to."""
    sections: list[type[BaseModel]] = [model]
    for part in location:
        below: list[type[BaseModel]] = []
        for section in sections:
            field = section.model_fields.get(str(part))
            below += _models_in(field.annotation) if field else []
        # A part that names no field is a key of a dict, an index, or a union's tag: stay here.
        sections = below or sections
    return sorted(
        field.alias or name for section in sections for name, field in section.model_fields.items()
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def to_yaml(config: BaseModel) -> str:
    """The whole config, every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
