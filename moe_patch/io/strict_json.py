"""Strict reading of JSON (no repeated keys, no NaN, limited nesting), and its canonical form for writing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import chain
from typing import NoReturn

from pydantic import JsonValue, ValidationError

MAX_DEPTH = 32

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def parse_json(text: str, *, max_depth: int = MAX_DEPTH) -> JsonValue:
    """The value of a JSON text.

    Python's own parser keeps the last of two equal keys, accepts NaN and recurses as deep as the text does. A
    file that relies on any of these means different things to different readers, so each is an error here.

    Raises:
        ValueError: the text is not one strict JSON value. The message says why.
    """
    try:
        value: JsonValue = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {max_depth} levels") from None
    _check_depth(value, max_depth)
    if "\\ud" in text.lower():
        canonical_json(value)  # fails for the escape of a lone surrogate
    return value


def canonical_json(value: JsonValue) -> str:
    """The canonical form of `value`: keys sorted by code point, no white space, no needless escapes.

    Raises:
        ValueError: the value contains NaN, an infinity, or a string that UTF-8 cannot encode.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # fails for a lone surrogate, with a ValueError, before any file is written
    return text


def describe_json(value: object) -> str:
    """The kind of a JSON value, in words for an error message: "an object", "a number", ..."""
    return _KINDS.get(type(value), "a number")


def first_complaint(error: ValidationError) -> str:
    """The first problem in a pydantic error, as `field: what was expected, found what`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place}: expected a value, but the field is missing"
    if first["type"] == "extra_forbidden":
        return f"{place}: no such field"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
    else:
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}, found {_short(first['input'])}"
    return f"{place}: {message}" if place else message


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    unique: dict[str, JsonValue] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {_short(key)} appears twice in one object")
        unique[key] = value
    return unique


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is beyond the range of a double")
    return number


def _check_depth(value: JsonValue, max_depth: int) -> None:
    level = _containers([value])  # one level at a time, since recursion could exhaust the stack
    for _ in range(max_depth):
        if not level:
            return
        inside = (parent.values() if isinstance(parent, dict) else parent for parent in level)
        level = _containers(chain.from_iterable(inside))
    if level:
        raise ValueError(f"nested deeper than {max_depth} levels")


def _containers(values: Iterable[JsonValue]) -> list[dict[str, JsonValue] | list[JsonValue]]:
    return [value for value in values if isinstance(value, (dict, list))]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
