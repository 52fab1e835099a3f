"""Dropping facts and combining patches, compared with a new build from the same rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moe_patch.errors import PatchError, StackError
from moe_patch.patch import LayerDelta, Patch, load, save
from moe_patch.patch.rows import Rows, one_left_per_row, select_rows
from moe_patch.solve.algebra import block_coordinate_descent
from moe_patch.stack import combine_patches, drop_facts
from moe_patch.stack.check import check_combined
from tests.patch.patches import bypass_patch, delta_patch, digest, fingerprint
from tests.stack.patches import World, dense, stacked

CLOSE = {"atol": 2e-6, "rtol": 2e-5}


def same_edit(one: Patch, other: Patch, **tolerance: float) -> None:
    assert list(one.layers) == list(other.layers)
    for layer in one.layers:
        torch.testing.assert_close(dense(one, layer), dense(other, layer), **(tolerance or CLOSE))
        assert one.layers[layer].ridge == pytest.approx(other.layers[layer].ridge)


@pytest.mark.parametrize("relative", [False, True])
def test_dropping_facts_gives_the_patch_built_without_them(relative: bool, tmp_path: Path) -> None:
    world = World(6)
    whole = world.build(range(6), relative=relative)
    less = drop_facts(whole, {"fact-1", "fact-4"})
    expected = world.build([0, 2, 3, 5], relative=relative)
    same_edit(less, expected)
    assert (less.facts, less.results) == (expected.facts, expected.results)
    assert less.parents == (whole.hash,)
    assert not torch.allclose(dense(whole, 1), dense(less, 1), atol=1e-2)
    save(less, tmp_path / "less.safetensors")
    same_edit(
        drop_facts(load(tmp_path / "less.safetensors"), {"fact-0"}), world.build([2, 3, 5], relative=relative)
    )


def test_dropping_what_block_descent_built_gives_the_exact_solution_without_it() -> None:
    world = World(4, layers=[1])
    exact = world.build(range(4))
    delta = exact.layers[1]
    assert delta.residual is not None
    found = block_coordinate_descent(
        delta.fact_rows, delta.residual, delta.ridge, passes=2, generator=torch.Generator().manual_seed(0)
    )
    by_descent = replace(delta, left=found.left, rows=one_left_per_row(delta.fact_rows))
    same_edit(drop_facts(replace(exact, layers={1: by_descent}), {"fact-2"}), world.build([0, 1, 3]))


def tucker_patch(world: World, chosen: list[int]) -> Patch:
    """Facts with rows of another kind: keys projected by a random factor, as in MoTE."""
    exact = world.build(chosen, layers=[1])
    delta = exact.layers[1]
    assert delta.residual is not None
    factor = torch.linalg.qr(torch.randn(4, 3, generator=torch.Generator().manual_seed(5)).double()).Q
    mix = torch.randn(8, 2, generator=torch.Generator().manual_seed(6)).double()  # (E, r_e)
    rows, facts = delta.fact_rows, len(chosen)
    phi = torch.zeros(facts, 2, 3, dtype=torch.float64)
    for expert, block in rows.blocks():
        inner = rows.value[block].double() @ factor
        phi.index_add_(0, rows.fact[block], mix[expert][None, :, None] * inner[:, None, :])
    gram = phi.flatten(1) @ phi.flatten(1).T
    left = torch.linalg.solve(gram + 0.1 * torch.eye(facts), delta.residual.double())
    value = torch.einsum("ea,tar,kr->etk", mix, phi, factor).reshape(-1, 4)  # (E * T, d_k)
    everywhere = Rows(value, torch.arange(8).repeat_interleave(facts), torch.arange(facts).repeat(8), facts)
    spread = LayerDelta.from_solution(left, everywhere, fact_rows=rows, residual=delta.residual, ridge=0.1)
    return replace(exact, method="mote", layers={1: spread})


def test_dropping_works_where_a_method_spreads_facts_over_rows_of_its_own() -> None:
    world = World(5, layers=[1])
    less, expected = (
        drop_facts(tucker_patch(world, [0, 1, 2, 3, 4]), {"fact-3"}),
        tucker_patch(world, [0, 1, 2, 4]),
    )
    kept = less.layers[1].rows.fact.unique()
    assert len(kept) == 4
    rows = expected.layers[1].fact_rows
    for expert in range(8):  # the rows still hold the compressed keys of the fact's own only
        torch.testing.assert_close(dense(less, 1)[expert], dense(expected, 1)[expert], atol=1e-4, rtol=1e-4)
    assert torch.equal(less.layers[1].fact_rows.value, rows.value)


def test_drop_says_why_it_cannot() -> None:
    patch = World(3).build(range(3))
    with pytest.raises(PatchError, match="no fact 'capital' in the patch: it has fact-0, fact-1, fact-2"):
        drop_facts(patch, {"capital"})
    with pytest.raises(PatchError, match="no fact would be left"):
        drop_facts(patch, {fact.id for fact in patch.facts})
    with pytest.raises(PatchError, match="kind bypass"):
        drop_facts(bypass_patch(), {"fact-0"})
    forgetful = {layer: replace(delta, residual=None) for layer, delta in patch.layers.items()}
    with pytest.raises(PatchError, match="layer 1 lacks the facts' residuals"):
        drop_facts(replace(patch, layers=forgetful), {"fact-0"})
    delta = patch.layers[1]
    fewer = select_rows(replace(delta.rows, value=delta.rows.value + 1), torch.arange(2))
    truncated = replace(delta, left=delta.left[:2], rows=fewer)
    with pytest.raises(PatchError, match="cannot be solved again"):
        drop_facts(replace(patch, layers={1: truncated}), {"fact-0"})


@pytest.mark.parametrize("relative", [False, True])
def test_solving_a_stack_gives_what_building_its_facts_together_gives(relative: bool) -> None:
    world = World(9)
    parts = [world.build(chosen, relative=relative) for chosen in ([0, 1], [2, 3, 4, 5], [6, 7, 8])]
    joint = combine_patches(stacked(*parts), "solve")
    expected = world.build(range(9), relative=relative)
    same_edit(joint.patch, expected)
    assert joint.patch.facts == expected.facts
    assert joint.patch.results == expected.results
    assert joint.patch.parents == tuple(part.hash for part in parts)
    assert joint.notes == ()
    summed = sum(dense(part, 1) for part in parts)
    assert not torch.allclose(summed, dense(joint.patch, 1), atol=1e-2)


def test_adding_a_stack_is_adding_its_deltas(tmp_path: Path) -> None:
    world = World(6)
    parts = [world.build([0, 1], layers=[1]), world.build([2, 3]), world.build([4, 5], layers=[10])]
    joined = combine_patches(stacked(*parts), "add").patch
    for layer in (1, 10):
        expected = sum(dense(part, layer) for part in parts if layer in part.layers)
        torch.testing.assert_close(dense(joined, layer), expected, atol=1e-6, rtol=1e-6)
    save(joined, tmp_path / "joined.safetensors")
    same_edit(drop_facts(load(tmp_path / "joined.safetensors"), {"fact-1"}), combine_patches(
        stacked(drop_facts(parts[0], {"fact-1"}), parts[1], parts[2]), "solve"
    ).patch)  # fmt: skip


def test_patches_that_edit_other_layers_solve_to_themselves() -> None:
    world = World(4)
    low, high = world.build([0, 1], layers=[1]), world.build([2, 3], layers=[10])
    joint = combine_patches(stacked(low, high), "solve").patch
    assert sorted(joint.base.experts) == [1, 10]
    torch.testing.assert_close(dense(joint, 1), dense(low, 1), **CLOSE)
    torch.testing.assert_close(dense(joint, 10), dense(high, 10), **CLOSE)


@pytest.mark.parametrize("how", ["add", "solve"])
def test_of_facts_that_are_said_twice_the_later_one_counts_aloud(how: str) -> None:
    world = World(5)
    early, late = world.build([0, 1, 2]), world.build([2, 3, 4])
    other = replace(late.facts[0], id="again", target_new="Atlantis")
    late = replace(late, facts=(other, *late.facts[1:]))
    joint = combine_patches(stacked(early, late), how)  # type: ignore[arg-type]
    assert [fact.id for fact in joint.patch.facts] == ["fact-0", "fact-1", "again", "fact-3", "fact-4"]
    (note,) = joint.notes
    assert note == ("'Town 2 lies in': patch-1 says 'Land 2', patch-2 says 'Atlantis'; patch-2 counts")
    without = combine_patches(stacked(world.build([0, 1]), late), how).patch  # type: ignore[arg-type]
    same_edit(joint.patch, without)
    assert len(joint.patch.parents) == 2


def test_a_patch_that_is_answered_whole_is_left_out_aloud() -> None:
    world = World(3)
    joint = combine_patches(stacked(world.build([1]), replace(world.build([0, 1]), method="other")), "solve")
    assert [fact.id for fact in joint.patch.facts] == ["fact-0", "fact-1"]
    assert joint.notes[-1] == "nothing is left of patch-1: later patches answer all its facts"


@pytest.mark.parametrize("how", ["add", "solve"])
def test_a_patch_without_facts_is_no_patch_that_is_answered(how: str) -> None:
    world = World(2)
    members = stacked(world.build([]), world.build([0, 1]))
    joint = combine_patches(members, how)  # type: ignore[arg-type]
    assert (len(joint.patch.facts), joint.notes) == (2, ())
    same_edit(joint.patch, members[1].patch)
    assert check_combined(members, joint, how).findings == ()  # type: ignore[arg-type]
    assert combine_patches(members[:1], how).patch.facts == ()  # type: ignore[arg-type]


def test_an_id_that_is_taken_gets_the_number_of_its_patch() -> None:
    world = World(4)
    second = world.build([2, 3])
    second = replace(
        second, facts=tuple(replace(fact, id=f"fact-{n}") for n, fact in enumerate(second.facts))
    )
    joint = combine_patches(stacked(world.build([0, 1]), second), "solve")
    assert [fact.id for fact in joint.patch.facts] == ["fact-0", "fact-1", "fact-0@2", "fact-1@2"]
    assert joint.notes[0] == "the id 'fact-0' of patch-2 is taken: the fact is now called 'fact-0@2'"


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(StackError, match="no patch of the stack is enabled"):
        combine_patches([], "add")
    with pytest.raises(StackError, match=r"patch-2 is of kind bypass: .* a delta cannot express"):
        combine_patches(stacked(delta_patch(), bypass_patch()), "add")


def test_deltas_without_residuals_can_be_added_but_not_solved() -> None:
    patch = World(2, layers=[1]).build([0, 1])
    bare = replace(patch, layers={1: replace(patch.layers[1], residual=None)})
    other = delta_patch(edited=(1,), seed=3, base=fingerprint(1), parents=(digest(1),))
    joined = combine_patches(stacked(bare, other), "add").patch
    torch.testing.assert_close(dense(joined, 1), dense(bare, 1) + dense(other, 1))
    assert joined.layers[1].residual is None
    with pytest.raises(PatchError, match="lacks the facts' residuals"):
        combine_patches(stacked(bare, other), "solve")


def test_the_schema_of_the_facts_stays_if_it_is_one() -> None:
    world = World(3)
    first = replace(world.build([0, 1]), schema="counterfact")
    second = replace(world.build([2]), schema="counterfact")
    assert drop_facts(first, {"fact-1"}).schema == "counterfact"
    assert combine_patches(stacked(first, second), "add").patch.schema == "counterfact"
    mixed = combine_patches(stacked(first, replace(second, schema="zsre-alt")), "solve")
    assert mixed.patch.schema == "mixed"
