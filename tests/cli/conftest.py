"""A tiny model on disk, facts about it, and a patch for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from moe_patch.cli import main
from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact
from moe_patch.patch import save
from tests.tiny import tiny_base, tiny_patch

Run = Callable[..., Result]

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
    for i in range(3)
]


@pytest.fixture
def run() -> Run:
    """Run the command line; standard output and standard error are apart."""

    def invoke(*arguments: str | Path, given: str | bytes | None = None) -> Result:
        texts = [str(argument) for argument in arguments]
        return CliRunner().invoke(main, texts, input=given, prog_name="moe-patch")

    return invoke


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    base = tiny_base("qwen3_moe")
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def patch_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patch") / "random.safetensors"
    save(tiny_patch(tiny_base("qwen3_moe"), [0, 1], scale=1.5), path)
    return path


@pytest.fixture
def edits(tmp_path: Path) -> Path:
    path = tmp_path / "facts.jsonl"
    write_facts(path, FACTS)
    return path
