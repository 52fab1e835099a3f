"""One more patch onto patches that are on, against weights that are added up."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from moe_patch.apply.weights.summed import patched_weight
from moe_patch.patch import Patch
from moe_patch.stack import Stacked, combine_patches
from moe_patch.stack.addition import check_addition
from moe_patch.stack.check import Finding, ShiftLimits
from tests.patch.patches import D_KEY, D_MODEL
from tests.stack.patches import World, apart


def check(on: list[Patch], added: Patch, **more: bool) -> list[Finding]:
    stacked = [Stacked(f"on{number}", patch) for number, patch in enumerate(on)]
    return list(check_addition(stacked, Stacked("new", added), on, **more))


def refused(found: list[Finding]) -> list[str]:
    return [finding.text for finding in found if finding.level == "refuse"]


def test_a_patch_of_facts_that_are_on_already_is_refused() -> None:
    world = World(8)
    found = check([world.build(range(8))], world.build([2, 5]))
    for layer in (1, 10):
        assert any(
            f"of on0 at layer {layer} by" in text and text.startswith("new moves") for text in refused(found)
        )
    assert sum(finding.text.endswith("both are added") for finding in found) == 2


def test_conflicts_that_are_allowed_are_still_said() -> None:
    world = World(8)
    on, added = [world.build(range(8))], world.build([2, 5])
    allowed = check(on, added, allow_conflicts=True)
    assert not refused(allowed)
    assert set(refused(check(on, added))) <= {one.text for one in allowed if one.level == "warn"}


def test_another_answer_to_a_question_contradicts() -> None:
    patch = World(4).build([1])
    other = replace(patch, facts=(replace(patch.facts[0], target_new="Elsewhere"),))
    assert any("contradictory facts" in text for text in refused(check([patch], other)))


def test_facts_whose_keys_are_apart_go_together() -> None:
    world = apart(World(4), 3)
    assert check([world.build([0, 1])], world.build([3])) == []
    assert check([], world.build([3])) == []


def test_what_was_moved_before_is_not_held_against_the_new_patch() -> None:
    world = apart(World(6), 5)
    twice = [world.build([0, 1]), world.build([1, 2])]
    assert refused(check(twice[:1], twice[1]))
    assert check(twice, world.build([5])) == []


def test_a_patch_that_was_built_on_others_wants_them_beneath() -> None:
    world = apart(World(4), 3)
    on, other = world.build([0]), world.build([1])
    above = replace(world.build([3]), hyperparameters={"ridge": 1.0, "on": {"patches": [on.hash]}})
    assert check([on], above) == []
    (missing,) = check([other], above)
    assert (missing.level, f"was built on top of {on.hash}" in missing.text) == ("warn", True)


def added_by(patch: Patch, probe: Patch) -> Tensor:
    """What a patch adds at layer 1 for the first fact of another, from whole matrices."""
    rows, delta = probe.layers[1].rows, patch.layers[1]
    total = torch.zeros(D_MODEL, dtype=torch.float64)
    for expert, value in zip(rows.expert.tolist(), rows.value, strict=True):
        if expert in delta.experts():
            total += (patched_weight(torch.zeros(D_MODEL, D_KEY), expert, [delta]) @ value).double()
    return total


def test_shares_are_those_of_dense_weights() -> None:
    world = World(9, layers=(1,))
    on = [world.build(range(4)), world.build(range(4, 8))]
    stacked = [Stacked(f"on{number}", patch) for number, patch in enumerate(on)]
    joint, new = combine_patches(stacked, "solve").patch, world.build([8])
    alone = added_by(new, new)
    by_all = added_by(joint, new).norm() / alone.norm()
    by_one = added_by(on[0], new).norm() / alone.norm()
    found = check_addition(stacked, Stacked("new", new), [joint], ShiftLimits(1e-9, 1e9))
    texts = [finding.text for finding in found]
    assert f"the stack moves 'fact-8' of new at layer 1 by {by_all:.0%} of its own edit" in texts
    assert f"on0 moves 'fact-8' of new at layer 1 by {by_one:.0%} of its own edit" in texts
