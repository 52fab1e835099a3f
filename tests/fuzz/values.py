"""Mutation of JSON values and of bytes."""

from __future__ import annotations

import random
from typing import Any

LEAVES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 4_999, 2**31, 2**53, -(2**63), 2**64, 10**400),
    *(0.0, -0.0, 1e-320, 0.5, 1e38, 1e100, 1.7e308),
    *(
        "",
        " ",
        "{}",
        "{} {}",
        "\0",
        "\x1b[2J",
        "\u202egnp",
        "\u200b",
        "a\nb",
        "x" * 300,
        "../../x",
        "/dev/zero",
    ),
    *("$HOME", "sha256:" + "0" * 64, "2026-01-31T12:00:00+00:00", "x" * 70_000, "a" * 300 + "/b"),
    *([], {}, [[[[[]]]]], {"a": {"b": {"c": 1}}}, [1, 2, 3], ["a", "a"]),
]

KNOWN: dict[str, list[Any]] = {
    "on": [{"patches": ["sha256:" + "1" * 64], "protected": {"0": 2}}, {"protected": {"1": 9**9}}],
    "solved_at": [0, 1, 99, -1, True],
    "ridge_relative": [True],
    "targets": [{"chat": True}],
    "chat": [True],
    "shared_with": [["fact-0"], [1, None]],
    "taken": [True, False, 1],
    "enabled": [False],
    "shape": [[5_000, 32, 24], [1, 1, 1], [8, 32, 2**17], [8, 2**17, 24]],
    "facts": [[]],
    "results": [[]],
    "patch": [[]],
}
"""What fields mean something to the commands, and values that are of their types."""


def mutate_json(value: Any, chance: random.Random) -> Any:
    """The value, changed in place, with one leaf or container replaced, removed, repeated or added."""
    places = list(_places(value))
    if not places:
        return chance.choice(LEAVES)
    if chance.random() < 0.2:
        places = [place for place in places if place[1] in KNOWN] or places
    parent, key = chance.choice(places)
    how = chance.random()
    if key in KNOWN and how < 0.5:
        parent[key] = chance.choice(KNOWN[key])
    elif how < 0.6:
        parent[key] = chance.choice(LEAVES)
    elif how < 0.7:
        del parent[key]
    elif how < 0.8 and isinstance(parent, list):
        parent.insert(chance.randrange(len(parent) + 1), parent[key])
    elif how < 0.9 and isinstance(parent, dict):
        parent[chance.choice([*KNOWN, "x", "77", "\x1b[2J"])] = chance.choice(LEAVES)
    else:
        parent[key] = _nudged(parent[key], chance)
    return value


def mutate_bytes(raw: bytes, chance: random.Random) -> bytes:
    """The bytes with some flipped, removed, repeated, or put elsewhere."""
    changed = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 8])):
        place, length = chance.randrange(len(changed) + 1), chance.choice([1, 1, 4, 64, 4096])
        how = chance.randrange(4)
        if how == 0:
            del changed[place : place + length]
        elif how == 1:
            changed[place:place] = chance.randbytes(length)
        elif how == 2:
            other = chance.randrange(len(changed) + 1)
            changed[place : place + length] = changed[other : other + length]
        elif changed:
            changed[min(place, len(changed) - 1)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _nudged(value: Any, chance: random.Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return chance.choice([value + 1, value - 1, -value, value * 1_000_003, value / 3])
    if isinstance(value, str):
        place = chance.randrange(len(value) + 1)
        return value[:place] + chance.choice(["\x1b", "\u202e", " ", "0", "é", "{}", "/"]) + value[place:]
    return chance.choice(LEAVES)
