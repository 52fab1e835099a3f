"""Ranges of values that files may hold, so that nothing that prints or sums them can fail or never end."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue

LARGEST_INTEGER = 2**64 - 1
"""In magnitude; seeds have up to 64 bits."""

LARGEST_NUMBER = 1e100
"""In magnitude, of numbers with a fraction or an exponent; sums of a million of them are still finite."""

LONGEST_TEXT = 2**16
"""Characters of one text."""

MOST_ENTRIES = 2**16
"""Elements of one array, or fields of one object, where nothing else is stated."""


def check_ranges(value: JsonValue) -> None:
    """Check all numbers, texts, arrays and objects of a JSON value, which is not nested deeply.

    Raises:
        ValueError: one is outside of its range. The message says which.
    """
    if isinstance(value, dict):
        _at_most("an object with", len(value), MOST_ENTRIES, "fields")
        for key, inner in value.items():
            check_ranges(key)
            check_ranges(inner)
    elif isinstance(value, list):
        _at_most("an array of", len(value), MOST_ENTRIES, "elements")
        for inner in value:
            check_ranges(inner)
    elif isinstance(value, str):
        _at_most("a text of", len(value), LONGEST_TEXT, "characters")
    elif isinstance(value, float) and not abs(value) <= LARGEST_NUMBER:
        raise ValueError(f"expected a number of at most {LARGEST_NUMBER:g} in magnitude, found {value:g}")
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"expected an integer of at most 64 bits, found one of {value.bit_length()}")


def _checked(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    check_ranges(value)
    return value


def _at_most(what: str, count: int, most: int, unit: str) -> None:
    if count > most:
        raise ValueError(f"expected {what} at most {most} {unit}, found {count}")


Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
"""A text of a file."""

Label = Annotated[str, Field(max_length=256)]
"""A name or a version."""

JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_checked)]
"""An object whose fields the schema does not name."""
