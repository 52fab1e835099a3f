"""JSON from outside, read strictly: no repeated keys, no NaN, no endless nesting; and one way to write it."""

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
    """The value that `text` spells; ValueError, with the reason, where it is not one strict JSON value.

    Python's parser keeps the last of two equal keys, reads NaN and recurses as deep as the text says. A
    file that relies on any of these means different things to different readers, so each is an error here.
    """
    try:
        value: JsonValue = json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"nested deeper than {max_depth} levels") from None
    _check_depth(value, max_depth)
    if "\\ud" in text.lower():
        canonical_json(value)  # fails for the escape of a surrogate that stands alone
    return value


def canonical_json(value: JsonValue) -> str:
    """The one spelling of `value`: keys sorted by code point, no white space, no needless escapes.

    Raises ValueError for NaN, infinities and strings that UTF-8 cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text.encode()  # a lone surrogate fails here, as a ValueError, and not when the file is written
    return text


def describe_json(value: object) -> str:
    """What kind of JSON value this is, in words for an error message."""
    return _KINDS.get(type(value), "a number")


def first_complaint(error: ValidationError) -> str:
    """The first complaint of a pydantic error as `field: what was expected`, with what was found."""
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
    level = _containers([value])  # level by level, so that no depth can exhaust the stack
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
