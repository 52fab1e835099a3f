"""Bounds on what was trained or searched: they hold by a margin, whatever rounding does.

Where the environment's `MOE_PATCH_MARGINS` names a file, each bound adds a line of JSON to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

SETTINGS = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MOE_PATCH_TEST_THREADS")
"""What of the environment decides how sums are rounded."""


def at_least(name: str, value: float, bound: float) -> None:
    """Assert that `value`, which `name` describes, is not below `bound`."""
    _record(name, value, bound, "at least")
    assert value >= bound, f"{name}: {value:g} is below {bound:g}"


def at_most(name: str, value: float, bound: float) -> None:
    """Assert that `value`, which `name` describes, is not above `bound`."""
    _record(name, value, bound, "at most")
    assert value <= bound, f"{name}: {value:g} is above {bound:g}"


def settings_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings that an environment has, without those that it leaves alone."""
    return {name: environment[name] for name in SETTINGS if name in environment}


def _record(name: str, value: float, bound: float, way: str) -> None:
    path = os.environ.get("MOE_PATCH_MARGINS")
    if path is None:
        return
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")[0]
    line = {"test": test, "name": name, "way": way, "value": float(value), "bound": float(bound)}
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "settings": settings_of(os.environ)}) + "\n")
