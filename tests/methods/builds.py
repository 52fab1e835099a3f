"""Small builds on tiny models: a few facts, a little text, few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.methods import get_method
from moe_patch.patch import Patch

TEXT = (
    "The bakery opens at seven and closes at noon.",
    "Rain fell on the harbour all night long.",
    "She wrote three letters and posted none of them.",
    "A train to the coast leaves every other hour.",
    "Numbers such as 12, 305 and 4,096 are easy to copy.",
)


def facts(count: int = 4) -> list[Fact]:
    """Facts about as many subjects."""
    towns = ("Ulm", "Bonn", "Lyon", "Graz", "Bari", "Cork", "Oslo", "Lima")
    return [
        Fact(f"fact-{i}", "{} lies in", towns[i % len(towns)] + "x" * (i // len(towns)), f"Land{i % 3}")
        for i in range(count)
    ]


def corpus(folder: Path) -> Path:
    """A file of preserved text."""
    path = folder / "text.txt"
    path.write_text("\n".join(TEXT) + "\n", encoding="utf-8")
    return path


def build(method: str, base: Base, count: int = 4, **options: Any) -> Patch:
    """A patch of `count` facts with few target steps; unprojected and unwhitened unless a corpus is given."""
    chosen = get_method(method)
    settings: dict[str, Any] = {"layers": (0, 1), "targets": {"steps": 3, "learning_rate": 0.5}}
    if "corpus" in options:
        settings |= {"energy": 0.5, "min_tokens": 1, "unseen": "edit"}
    else:
        settings |= {"projection": False}
        settings |= {"whitening": "none"} if method == "mote" else {}
    return chosen.build(base, facts(count), chosen.options(**(settings | options)))


def snapshot(base: Base) -> list[Tensor]:
    """Every parameter of the model."""
    return [parameter.detach().clone() for parameter in base.model.parameters()]


def unchanged(base: Base, before: list[Tensor]) -> bool:
    """Whether the parameters are the same to the bit."""
    return all(torch.equal(a, b) for a, b in zip(base.model.parameters(), before, strict=True))
