"""What a fact asks to keep of its subject, on the demo model, which would change it otherwise.

Over 5 s for each method: eight facts are built twice, with what is to be kept and without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError
from moe_patch.evaluation import evaluate
from moe_patch.methods import get_method
from moe_patch.methods.recipes import recipe_for
from moe_patch.patch import Patch, load, save
from tests.margins import at_least, at_most

FILE = Path(__file__).parents[2] / "recipes" / "facts" / "50.jsonl"
MOVED = [fact for fact in read_facts(FILE).facts if fact.id.startswith("country/")][:8]
KEEPING = [replace(fact, keep=("{} pays with the", "In {}, people speak")) for fact in MOVED]
ELSEWISE = ("A shop in {} takes the", "{} mostly speaks")  # the same in other words

Build = Callable[[str, Sequence[Fact]], Patch]


@pytest.fixture(scope="module")
def base() -> Base:
    return open_base(dtype=torch.float32)


@pytest.fixture(scope="module")
def build(base: Base) -> Build:
    recipe = recipe_for(base)
    assert recipe is not None

    def build(name: str, facts: Sequence[Fact]) -> Patch:
        method, options = get_method(name), recipe.method_options(name)
        if name == "memoe":
            options["steps"] = 60
        else:
            options["corpus_tokens"] = 20_000
            options["targets"] = {**options["targets"], "steps": 30, "clamp": 2.5, "use_cache": False}
        return method.build(base, facts, method.options(**options))

    return build


def kept(base: Base, patch: Patch, prompts: Sequence[str]) -> float:
    """The percentage of cases in which the patched model says the same about the subjects as before."""
    asked = [replace(fact, keep=tuple(prompts), paraphrases=(), neighborhood=()) for fact in MOVED]
    score = evaluate(base, patch, asked, routing=False).kept
    assert score.n == len(MOVED) * len(prompts)
    assert score.value is not None
    return score.value


@pytest.mark.quality
@pytest.mark.parametrize("method", ["moeedit", "mote"])
def test_a_town_moves_and_speaks_and_pays_as_before(base: Base, build: Build, method: str) -> None:
    freely, keeping = (build(method, facts) for facts in (MOVED, KEEPING))
    for wording, prompts in (("kept", KEEPING[0].keep), ("in other words", ELSEWISE)):
        at_most(f"% {wording} that stay unasked", kept(base, freely, prompts), 60)
        at_most(f"% {wording} that change though asked", 100 - kept(base, keeping, prompts), 15)
    scored = evaluate(base, keeping, routing=False)
    assert scored.patched.exact.efficacy.value == 100
    at_most("largest loss when edited", max(float(r["loss_edited"]) for r in keeping.results), 0.69)
    assert scored.kept.n == 2 * len(MOVED)


def test_what_is_kept_stays_with_the_patch(build: Build, tmp_path: Path) -> None:
    patch = build("moeedit", KEEPING[:2])
    save(patch, tmp_path / "patch.safetensors")
    assert load(tmp_path / "patch.safetensors").facts == tuple(KEEPING[:2])


@pytest.mark.quality
def test_a_bypass_leaves_alone_what_is_to_be_kept(base: Base, build: Build) -> None:
    freely, keeping = (kept(base, build("memoe", facts), KEEPING[0].keep) for facts in (MOVED, KEEPING))
    at_least("% more that is kept", keeping - freely, 30)


def test_a_bypass_without_a_gate_cannot_keep_anything(base: Base) -> None:
    memoe = get_method("memoe")
    with pytest.raises(ConfigError, match=r"fact country/\S+ has `keep` prompts"):
        memoe.build(base, KEEPING, memoe.options(layer=1, scope_gate=False, balance=False))
