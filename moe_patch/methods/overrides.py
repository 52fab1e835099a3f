"""A method's options from three places: the command line, else a recipe, else the method's defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from moe_patch.errors import ConfigError
from moe_patch.io.wording import did_you_mean

OptionsT = TypeVar("OptionsT", bound=BaseModel)


def option_names(options: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every option's dotted name: `ridge`, `targets.clamp`, ..."""
    for name, field in options.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from option_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def parse_setting(text: str) -> tuple[str, Any]:
    """The dotted name and the YAML value of a `key=value`.

    Raises:
        ConfigError: there is no `=`, no key, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text}: expected key=value, such as targets.clamp=0.5")
    try:
        return name.strip(), yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none, endless brackets
        raise ConfigError(f"--set {text}: the value is not YAML: {error}") from error


def merged_options(
    options: type[OptionsT], recipe: Mapping[str, Any], overrides: Mapping[str, Any], place: str
) -> OptionsT:
    """Validated options from a recipe and overrides.

    Args:
        options: the class of the options.
        recipe: nested as in a recipe file.
        overrides: by dotted names; they take precedence over the recipe.
        place: where the recipe came from, for messages.

    Raises:
        ConfigError: an option is unknown (the message lists the known ones), or its value is not valid.
    """
    known = sorted(option_names(options))
    for name in overrides:
        if name not in known:
            raise ConfigError(_unknown(name, known))
    values = _copy(recipe)
    for name, value in overrides.items():
        *parents, last = name.split(".")
        inner = values
        for parent in parents:
            inner = inner.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{place}: {parent}: expected options by name, found {inner!r}")
        inner[last] = value
    try:
        return options.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, overrides, place, known)) from error


def _unknown(name: str, known: list[str]) -> str:
    """That an option does not exist. A name without its group, as `clamp`, is close to the one with it."""
    close = [option for option in known if option.rpartition(".")[2] == name]
    hint = f"; did you mean {close[0]!r}?" if close else did_you_mean(name, known)
    return f"unknown option {name!r}: expected one of {', '.join(known)}{hint}"


def _copy(nested: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in nested.items()}


def _explain(error: ValidationError, overrides: Mapping[str, Any], place: str, known: list[str]) -> str:
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        given = any(name == key or name.startswith(f"{key}.") for key in overrides)
        where = "" if given or not name else f"{place}: "
        if problem["type"] == "extra_forbidden":
            problems.append(where + _unknown(name, known))
        else:
            found = f", not {problem['input']!r}" if name else ""  # without a name, it is all options
            problems.append(f"{where}{name or 'options'}: {problem['msg']}{found}")
    return "; ".join(problems)
