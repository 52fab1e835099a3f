"""Stacks of patches from real builds, and dropped facts, compared with new builds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import ConfigError, PatchError
from moe_patch.methods import METHODS, get_method
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.patch import LayerDelta, Patch
from moe_patch.solve.algebra import edit_kernel, edit_response
from moe_patch.stack import combine_patches, drop_facts
from moe_patch.stack.foundation import foundation_of
from tests.margins import at_most
from tests.methods.builds import facts
from tests.patch.patches import digest
from tests.stack.patches import stacked
from tests.tiny import tiny_base

SETTINGS = {
    "layers": (0, 1),
    "projection": False,
    "ridge": 0.05,
    "targets": {"steps": 3, "learning_rate": 0.5},
}


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base("qwen3_moe")


def build(base: Base, chosen: list[int], method: str = "moeedit", **options: object) -> Patch:
    extra = {"whitening": "none"} if method == "mote" else {}
    made = get_method(method)
    wanted = [facts(6)[number] for number in chosen]
    return made.build(base, wanted, made.options(**(SETTINGS | extra | options)))


def experts(delta: LayerDelta, base: Base, layer: int) -> torch.Tensor:
    shape = base.layer(layer).shape
    dense = torch.zeros(shape)
    for row, (expert, fact) in enumerate(
        zip(delta.rows.expert.tolist(), delta.rows.fact.tolist(), strict=True)
    ):
        dense[expert] += torch.outer(delta.left[fact], delta.rows.value[row])
    return dense


def apart(one: Patch, other: Patch, base: Base, layer: int) -> float:
    first, second = (experts(patch.layers[layer], base, layer) for patch in (one, other))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("method", ["moeedit", "mote", "woodbury-spread"])
def test_dropping_is_building_without_at_the_lowest_layer(base: Base, method: str, relative: bool) -> None:
    if method not in METHODS:
        pytest.skip(f"there is no method {method}")
    whole = build(base, [0, 1, 2, 3], method, ridge_relative=relative)
    fewer, anew = drop_facts(whole, {"fact-2"}), build(base, [0, 1, 3], method, ridge_relative=relative)
    assert apart(fewer, anew, base, 0) < 1e-4
    assert fewer.layers[0].ridge == pytest.approx(anew.layers[0].ridge, rel=1e-5)
    assert apart(whole, anew, base, 0) > 1e-2
    if method != "moeedit":  # keys are measured once, so that no layer depends on the edits below
        assert apart(fewer, anew, base, 1) < 1e-4


def test_a_stack_solved_is_the_build_of_all_facts_at_the_lowest_layer(base: Base) -> None:
    joint = combine_patches(stacked(build(base, [0, 1]), build(base, [2, 3])), "solve").patch
    together = build(base, [0, 1, 2, 3])
    assert apart(joint, together, base, 0) < 1e-4
    assert joint.facts == together.facts


def under(base: Base) -> EarlierEdits:
    patch = combine_patches(stacked(build(base, [0, 1]), build(base, [2])), "solve").patch
    return EarlierEdits(patch, patch.parents)


def build_on(
    base: Base, earlier: EarlierEdits, chosen: list[int], method: str = "moeedit", **options: object
) -> Patch:
    made = get_method(method)
    extra = {"whitening": "none"} if method == "mote" else {}
    wanted = [facts(6)[number] for number in chosen]
    return made.build_on(base, wanted, made.options(**(SETTINGS | extra | options)), earlier)


@pytest.mark.quality
@pytest.mark.parametrize("solver", ["exact", "bcd"])
def test_a_build_on_a_stack_leaves_its_facts_where_they_are(base: Base, solver: str) -> None:
    earlier = under(base)
    careful = build_on(base, earlier, [4, 5], solver=solver, passes=60, ridge=1e-4)
    with apply(base, earlier.patch, mode="hook"):
        careless = build(base, [4, 5], ridge=1e-4)
    layer = 0  # where both see the same keys
    keys = earlier.patch.layers[layer].fact_rows
    moved = {
        name: float(edit_response(delta.left, delta.rows, keys).norm())
        for name, delta in (("careful", careful.layers[layer]), ("careless", careless.layers[layer]))
    }
    at_most("share of the movement that care leaves", moved["careful"] / moved["careless"], 0.05)
    assert [fact.id for fact in careful.facts] == ["fact-4", "fact-5"]
    assert careful.parents == earlier.patches == tuple(foundation_of(careful).patches)
    assert foundation_of(careful).protected == {"0": 3, "1": 3}
    assert len(careful.results) == 2


@pytest.mark.quality
@pytest.mark.parametrize("method", ["mote", "woodbury-spread", "bcd-spread"])
def test_what_is_spread_leaves_a_stacks_facts_where_they_are_at_the_layer_that_is_solved(
    base: Base, method: str
) -> None:
    earlier, options = under(base), {"ridge": 1e-4, "ridge_relative": True}
    options |= {"passes": 60} if method == "bcd-spread" else {}
    careful = build_on(base, earlier, [4, 5], method, **options)
    with apply(base, earlier.patch, mode="hook"):
        careless = build(base, [4, 5], method, **options)
    keys = earlier.patch.layers[1].fact_rows
    moved = [
        float(edit_response(patch.layers[1].left, patch.layers[1].rows, keys).norm())
        for patch in (careful, careless)
    ]
    at_most("share of the movement that care leaves", moved[0] / moved[1], 0.05)
    assert careful.parents == earlier.patches == tuple(foundation_of(careful).patches)
    assert foundation_of(careful).protected == {"0": 3, "1": 3}
    assert [fact.id for fact in careful.facts] == ["fact-4", "fact-5"]
    joint = combine_patches([*stacked(earlier.patch), *stacked(careful)], "solve").patch
    assert len(joint.facts) == 5


def test_built_on_a_stack_and_solved_with_it_asks_for_the_same_outputs(base: Base) -> None:
    parts = stacked(build(base, [0, 1]), build(base, [2]))
    lower = combine_patches(parts, "solve").patch
    upper = build_on(base, EarlierEdits(lower, lower.parents), [4, 5], ridge=1e-6)
    joint = combine_patches([*parts, *stacked(upper)], "solve").patch
    keys = upper.layers[0].fact_rows
    alone = sum(edit_response(delta.left, delta.rows, keys) for delta in (lower.layers[0], upper.layers[0]))
    torch.testing.assert_close(
        upper.layers[0].residual.double(),  # type: ignore[union-attr]
        alone,
        atol=5e-3,
        rtol=5e-3,
    )
    assert [fact.id for fact in joint.facts] == ["fact-0", "fact-1", "fact-2", "fact-4", "fact-5"]


def test_facts_of_a_build_on_a_stack_can_be_dropped(base: Base) -> None:
    earlier = under(base)
    fewer = drop_facts(build_on(base, earlier, [4, 5]), {"fact-4"})
    assert apart(fewer, build_on(base, earlier, [5]), base, 0) < 1e-4
    spread, anew = (build_on(base, earlier, chosen, "woodbury-spread") for chosen in ([4, 5], [5]))
    fewer = drop_facts(spread, {"fact-4"})
    for layer in (0, 1):
        assert apart(fewer, anew, base, layer) < 1e-4
        wanted, found = (patch.layers[layer].residual for patch in (anew, fewer))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
    for method, options in (("moeedit", {"solver": "bcd"}), ("bcd-spread", {}), ("mote", {})):
        with pytest.raises(PatchError, match="cannot be solved again"):
            drop_facts(build_on(base, earlier, [4, 5], method, **options), {"fact-4"})


def test_dropping_says_whose_company_a_fact_was_shaped_in(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    made = get_method("moeedit")
    first = facts(2)[0]
    both = [first, replace(first, id="other", prompt="{} is found in", target_new="Land2"), facts(2)[1]]
    patch = made.build(base, both, made.options(**SETTINGS))
    caplog.clear()
    drop_facts(patch, {"fact-1"})
    assert not caplog.records
    drop_facts(patch, {"other"})
    assert "fact fact-0 is about the same subject as other" in caplog.text


def test_a_fact_that_the_new_patch_answers_is_not_protected(base: Base) -> None:
    earlier = under(base)
    made = get_method("moeedit")
    again = replace(facts(6)[1], id="again", target_new="Elsewhere")
    patch = made.build_on(base, [again], made.options(**SETTINGS), earlier)
    assert foundation_of(patch).protected == {"0": 2, "1": 2}
    assert [fact.id for fact in earlier.facts([again])] == ["fact-0", "fact-2"]


def test_a_layer_that_the_stack_leaves_alone_is_not_protected_and_a_warning_says_so(
    base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    lower = build(base, [0, 1], layers=(0,))
    patch = build_on(base, EarlierEdits(lower, (lower.hash,)), [4], layers=(0, 2))
    assert "layer 2: the stack does not edit this layer" in caplog.text
    assert float(edit_kernel(patch.layers[2].fact_rows).diagonal().min()) > 0


def test_options_that_cannot_protect_a_stack_say_so(base: Base) -> None:
    earlier = under(base)
    with pytest.raises(ConfigError, match="protect_earlier is off"):
        build_on(base, earlier, [4], protect_earlier=False)
    with pytest.raises(ConfigError, match="protect_earlier is off"):
        build_on(base, earlier, [4], "mote", protect_earlier=False)


def test_check_knows_what_a_patch_was_built_on(base: Base) -> None:
    from moe_patch.stack.check import check_combined
    from moe_patch.stack.combine import combine_deltas

    lower = build(base, [0, 1])
    upper = build_on(base, EarlierEdits(lower, (lower.hash,)), [4])
    members = stacked(lower, upper)
    found = check_combined(members, combine_deltas(members, "add"), "add")
    assert {(pair.disturbed, pair.by) for pair in found.disturbances} == {("patch-1", "patch-2")}
    members = stacked(upper, lower)
    found = check_combined(members, combine_deltas(members, "add"), "add")
    assert any("not enabled below it" in finding.text for finding in found.findings)
    assert lower.hash != digest(0)
