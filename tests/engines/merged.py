"""Checkpoints that hold a patch, and a way to have them read by what knows nothing of this project."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.checkpoint.folder import find_folder
from moe_patch.data.fact_file import read_facts
from tests.tiny import tiny_patch

PYTHON = os.environ.get("MOE_PATCH_TEST_ENGINES", "")
"""The interpreter of the environment in which the engines are."""

CHECKPOINTS = ("atlas", "sharded")

ODD = (
    "",
    " ",
    "a",
    " a",
    "a ",
    "two  blanks",
    "a\nb",
    "\ta",
    "don't",
    "<s> a",
    "naïve",
    "e\u0301",
    "中文 🙂",
)

_OUTSIDE = Path(__file__).parent / "outside"
_scratch = TemporaryDirectory()


def outside(script: str, *arguments: str | Path, given: object = None) -> None:
    """Run a script of `outside/` in the engines' environment, which cannot import this project."""
    command = [PYTHON, "-I", str(_OUTSIDE / script), *map(str, arguments)]
    subprocess.run(command, input=json.dumps(given), text=True, check=True)


@cache
def texts() -> list[str]:
    """Prompts about atlas's world, and what tokenizers differ on."""
    facts = read_facts(Path(str(resources.files("moe_patch.recipes"))) / "facts" / "1000.jsonl").facts
    return [*ODD, *(fact.prompt.format(fact.subject) for fact in facts[:700])]


@cache
def unmerged(name: str) -> Path:
    """The base's folder: the demo model, or a random one that an older transformers saved in shards."""
    if name == "atlas":
        return find_folder(None)
    folder = Path(_scratch.name) / name
    outside("older_transformers.py", "save", folder, given=texts())
    return folder


@cache
def merged(name: str) -> Path:
    """The base with a patch in its weights, and beside them all that a merge can leave in a folder."""
    base = opened(unmerged(name))
    folder = Path(_scratch.name) / f"{name}-merged"
    plan_merge(open_checkpoint(unmerged(name)), [tiny_patch(base)], folder, keep_originals=True).run()
    return folder


@cache
def opened(folder: Path) -> Base:
    """A checkpoint as our transformers opens it, in fp32. Do not change it."""
    return open_base(folder, dtype=torch.float32)
