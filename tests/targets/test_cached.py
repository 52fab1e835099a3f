"""Target values from the cache: when they are used, and when they must not be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.io import cache
from moe_patch.targets import cached as target_cache
from moe_patch.targets.cached import shared_targets
from moe_patch.targets.groups import context_prefixes
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets, losses_in_place
from moe_patch.targets.values import Targets
from tests.margins import at_least
from tests.methods.builds import build, facts
from tests.taught import edit, taught_base
from tests.tiny import tiny_base, tiny_patch

QUICK = TargetOptions(steps=3, learning_rate=0.5)


def targets(base: Base, layer: int = 1, count: int = 3, **changes: Any) -> Targets:
    options = QUICK.model_copy(update=changes)
    return shared_targets(base, facts(count), layer, options, prefixes=context_prefixes(base, options))


@pytest.fixture
def only_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill the cache with one entry, then make every search fail."""
    targets(tiny_base("qwen3_moe"))

    def searched(*_: object, **__: object) -> Targets:
        raise LookupError("searched")

    monkeypatch.setattr(target_cache, "find_targets", searched)


def test_what_is_kept_is_what_was_found() -> None:
    base = tiny_base("qwen3_moe")
    plain = find_targets(base, facts(3), 1, QUICK)
    for found in (targets(base), targets(base)):  # searched, then cached
        assert torch.equal(found.value, plain.value)
        assert torch.equal(found.start, plain.start)
        assert found.loss_before == plain.loss_before
        assert found.loss_after == plain.loss_after
        assert found.steps == plain.steps


@pytest.mark.usefixtures("only_cached")
def test_the_same_question_is_not_searched_again() -> None:
    told: list[tuple[str, int, int]] = []
    base = tiny_base("qwen3_moe")
    prefixes = context_prefixes(base, QUICK)
    shared_targets(base, facts(3), 1, QUICK, lambda *stage: told.append(stage), prefixes=prefixes)
    assert told == [("targets", 9, 9)]


@pytest.mark.usefixtures("only_cached")
@pytest.mark.parametrize(
    "changes", [{"steps": 4}, {"clamp": 0.5}, {"contexts": 1}, {"fact_token": "last"}, {"use_cache": False}]
)
def test_other_options_are_another_question(changes: dict[str, Any]) -> None:
    with pytest.raises(LookupError, match="searched"):
        targets(tiny_base("qwen3_moe"), **changes)


@pytest.mark.usefixtures("only_cached")
def test_other_facts_and_layers_are_another_question() -> None:
    base = tiny_base("qwen3_moe")
    for question in ({"count": 2}, {"count": 4}, {"layer": 0}):
        with pytest.raises(LookupError, match="searched"):
            targets(base, **question)


@pytest.mark.usefixtures("only_cached")
@pytest.mark.parametrize("weight", ["lm_head.weight", "model.layers.2.self_attn.v_proj.weight"])
def test_another_weight_anywhere_is_another_model(weight: str) -> None:
    base = tiny_base("qwen3_moe")
    with torch.no_grad():
        base.model.get_parameter(weight).mul_(1.01)
    with pytest.raises(LookupError, match="searched"):
        targets(base)


@pytest.mark.usefixtures("only_cached")
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("mode", ["merge", "hook"])
def test_a_patched_model_is_another_model(mode: Any, layer: int) -> None:
    base = tiny_base("qwen3_moe")
    with apply(base, tiny_patch(base, [layer]), mode=mode), pytest.raises(LookupError, match="searched"):
        targets(base)
    targets(base)


TAUGHT = TargetOptions(steps=8, learning_rate=0.5, contexts=1, context_tokens=3, facts_per_pass=2)
EDITS = [edit("Ann", "{} eats"), edit("Bob"), edit("Ann", "{} is in"), edit("Carl")]


def taught_targets() -> Targets:
    base = taught_base()
    found = shared_targets(base, EDITS, 1, TAUGHT, prefixes=context_prefixes(base, TAUGHT))
    gained = [before - after for before, after in zip(found.loss_before, found.loss_after, strict=True)]
    at_least("what a search gains", min(gained), 0.1)
    return found


@pytest.mark.quality
def test_values_that_do_not_do_what_they_did_are_searched_again() -> None:
    base, good = taught_base(), taught_targets()
    address = target_cache._address(base, EDITS, 1, TAUGHT, context_prefixes(base, TAUGHT))
    assert cache.load_tensors("targets", address) is not None
    cache.store_tensors("targets", address, target_cache._tensors(replace(good, value=good.start.clone())))
    for _ in range(2):  # the second time from the entry that was written anew
        assert torch.equal(taught_targets().value, good.value)


@pytest.mark.quality
def test_the_losses_in_place_are_those_that_the_search_ended_with() -> None:
    base, found = taught_base(), taught_targets()
    prefixes = context_prefixes(base, TAUGHT)
    again = losses_in_place(base, EDITS, 1, TAUGHT, found.value, prefixes=prefixes)
    assert again == pytest.approx(found.loss_after, rel=1e-3, abs=1e-4)


def test_methods_share_the_target_values_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    first = build("moeedit", base)
    searches: list[int] = []

    def counted(*arguments: Any, **named: Any) -> Targets:
        searches.append(len(arguments[1]))
        return find_targets(*arguments, **named)

    monkeypatch.setattr(target_cache, "find_targets", counted)
    for method in ("mote", "woodbury-spread", "bcd-spread"):
        patch = build(method, base)
        assert [r["loss_target"] for r in patch.results] == [r["loss_target"] for r in first.results]
    assert searches == []
    build("mote", base, batch_size=2)
    assert searches == [2, 2]
