"""UnKE: what a layer is trained to put out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.keys import measure_keys
from moe_patch.base.model import Base
from moe_patch.data.prompts import Prompt, encode_fact
from moe_patch.methods import get_method
from moe_patch.methods.rivals.resumed_pass import ResumedPass
from moe_patch.methods.rivals.unke import UnKEOptions, distance
from moe_patch.patch import Patch, load, save
from moe_patch.targets.search import find_targets
from tests.methods.builds import TEXT, corpus, facts, snapshot, unchanged
from tests.tiny import tiny_base

QUICK = {"steps": 3, "learning_rate": 0.2}


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def build(base: Base, folder: Path, count: int = 2, **options: Any) -> Patch:
    method = get_method("unke")
    settings: dict[str, Any] = {"layers": (1,), "targets": QUICK, "learning_rate": 0.01, "steps": 40}
    settings |= {"batch_size": None, "corpus": str(corpus(folder)), "preserved_tokens": 12}
    return method.build(base, facts(count), method.options(**(settings | options)))


def missing(base: Base, patch: Patch, count: int) -> float:
    """The share of the change of the stream after the last layer that the patch misses at the last tokens."""
    last, options = max(patch.layers), UnKEOptions(targets=QUICK).targets
    chosen = facts(count)
    found = find_targets(base, chosen, last, options, prefixes=("",))
    prompts = [encode_fact(base.reader, fact, options.style, answer=False) for fact in chosen]
    with apply(base, patch, mode="hook"):
        _, stream = measure_keys(base, prompts, [last], last, 8)
    return float((found.value - stream).norm() / (found.value - found.start).norm())


@pytest.mark.parametrize("layers", [(1,), (0, 1)])
def test_the_last_tokens_reach_their_target_values(
    base: Base, layers: tuple[int, ...], tmp_path: Path
) -> None:
    before = snapshot(base)
    patch = build(base, tmp_path, layers=layers)
    assert unchanged(base, before)
    assert list(patch.layers) == list(layers)
    few = build(base, tmp_path, layers=layers, steps=1)
    assert missing(base, patch, 2) < 0.5 * missing(base, few, 2)


def test_what_is_not_given_of_the_search_is_the_papers() -> None:
    targets = UnKEOptions(targets={"steps": 3}).targets
    assert (targets.steps, targets.clamp, targets.units, targets.kl_weight) == (3, 4.0, "published", 0.0)
    assert targets.model_copy(update={"steps": 25}) == UnKEOptions().targets


def test_preserved_text_is_kept_by_being_trained_on(base: Base, tmp_path: Path) -> None:
    ids = base.reader.sequences(list(TEXT), 12)
    texts = [Prompt(tuple(some), len(some) - 1) for some in ids]
    with torch.no_grad():
        goal = ResumedPass(base, texts, 1).states(1)

    def moved(patch: Patch) -> float:
        with apply(base, patch, mode="hook"), torch.no_grad():
            return float(distance(ResumedPass(base, texts, 1), 1, goal))

    other = tmp_path / "other.txt"
    other.write_text("Zq.\n", encoding="utf-8")
    kept, alone = moved(build(base, tmp_path)), moved(build(base, tmp_path, corpus=str(other)))
    assert kept < 0.7 * alone


def test_a_patch_survives_its_file_and_says_what_was_preserved(base: Base, tmp_path: Path) -> None:
    patch = build(base, tmp_path, steps=2, batch_size=1)
    save(patch, tmp_path / "p.safetensors")
    assert load(tmp_path / "p.safetensors").hash == patch.hash
    assert patch.hyperparameters["preserved_text"] == {"source": "corpus"}
    assert "corpus" not in patch.hyperparameters
    assert patch.edits_last_token
    assert patch.controls is not None


def test_the_states_of_a_resumed_pass_are_those_of_a_whole_one(base: Base) -> None:
    prompts = [Prompt(tuple(range(4, 15)), 10), Prompt(tuple(range(20, 27)), 6)]
    with torch.no_grad():
        for layer in (0, 1, 2):
            resumed = ResumedPass(base, prompts, layer)
            whole = ResumedPass(base, prompts, layer, resume=False)
            torch.testing.assert_close(resumed.states(layer), whole.states(layer))
            assert resumed.reached([layer]) == whole.reached([layer])
            assert not resumed.states(layer).requires_grad
