"""A few of many items, the same ones every time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spaced(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items, evenly spaced from first to last."""
    if len(items) <= count:
        return list(items)
    return [items[place * len(items) // count] for place in range(count)]
