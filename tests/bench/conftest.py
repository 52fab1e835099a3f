"""A tiny model, facts about it, and suites of quick builds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moe_patch.base.model import Base
from moe_patch.bench.experiments import Experiment, expand, read_materials
from moe_patch.bench.run import Asking
from moe_patch.bench.runner import Bench
from moe_patch.bench.suite import Suite
from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact
from tests.tiny import tiny_base

QUICK: dict[str, Any] = {
    "layers": [0, 1],
    "projection": False,
    "targets.steps": 2,
    "targets.contexts": 0,
    "targets.use_cache": False,
    "whitening": "none",
}
"""Options with which builds on the tiny model take no time."""

FACTS = [
    Fact(
        str(i),
        "{} lies in",
        f"Town {i}",
        f"Land {i + 1}",
        f"Land {i}",
        (f"One finds Town {i} in",),
        (f"Village {i} lies in", f"Hamlet {i} lies in"),
    )
    for i in range(6)
]


@pytest.fixture(scope="session")
def base() -> Base:
    return tiny_base("qwen3_moe")


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "towns.jsonl"
    write_facts(path, FACTS)
    return path


def suite(**fields: Any) -> Suite:
    """A suite of quick builds."""
    given = {"name": "quick", "title": "Quick", "arms": [{"method": "moeedit"}], "options": QUICK}
    return Suite.model_validate(given | {"batch_sizes": [2], "facts": [4]} | fields)


def write_suite(path: Path, **fields: Any) -> Path:
    """A file of a suite of quick builds, of methods without whitening."""
    fields["options"] = {name: value for name, value in QUICK.items() if name != "whitening"}
    path.write_text(yaml.safe_dump(suite(**fields).model_dump(mode="json")), encoding="utf-8")
    return path


def experiments(base: Base, edits: Path, **fields: Any) -> list[Experiment]:
    """The experiments of a suite of quick builds."""
    chosen = suite(**fields)
    return expand(chosen, read_materials(chosen, [edits], folder=edits.parent), base)


def bench(base: Base, edits: Path, out: Path, asking: Asking | None = None, **fields: Any) -> Bench:
    """A bench of quick builds."""
    return Bench("quick", experiments(base, edits, **fields), "tiny", asking or Asking(), None, out)
