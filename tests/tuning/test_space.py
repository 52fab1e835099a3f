"""What a search varies, for each method that changes down projections."""

from __future__ import annotations

import pytest

from moe_patch.methods import get_method
from moe_patch.methods.overrides import merged_options
from moe_patch.solve.nullspace import DEFAULT_ENERGY
from moe_patch.tuning.space import search_space

METHODS = ["moeedit", "mote", "woodbury-spread", "bcd-spread"]
LAYERS = [(2,), (1, 2), (5,)]


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_method_s_defaults(method: str) -> None:
    options = get_method(method).options(layers=(2,))
    space = search_space(options, LAYERS)
    written_out = options.model_copy(update={"energy": DEFAULT_ENERGY})
    assert merged_options(type(options), {}, space.settings(space.start), "") == written_out
    assert space.changes(space.start) == {}


@pytest.mark.parametrize("method", METHODS)
def test_every_candidate_is_valid_and_another_one(method: str) -> None:
    options = get_method(method).options(layers=(2,))
    space = search_space(options, LAYERS)
    seen = set()
    for place, dimension in enumerate(space.dimensions):
        assert len(dimension.candidates) > 1
        for number in range(len(dimension.candidates)):
            point = space.moved(space.start, place, number)
            found = merged_options(type(options), {}, space.settings(point), "")
            seen.add(found.model_dump_json())
            assert bool(space.changes(point)) == (number != dimension.start)
    others = sum(len(dimension.candidates) - 1 for dimension in space.dimensions)
    assert len(seen) == 1 + others


def test_layers_are_those_given_after_those_of_the_options() -> None:
    space = search_space(get_method("moeedit").options(layers=(2,)), LAYERS)
    assert [candidate["layers"] for candidate in space.dimensions[0].candidates] == [[2], [1, 2], [5]]


def test_what_is_fixed_is_not_varied() -> None:
    options = get_method("moeedit").options(layers=(2,), projection=False)
    names = {dimension.name for dimension in search_space(options, LAYERS, ["layers", "ridge"]).dimensions}
    assert names.isdisjoint({"layers", "ridge", "protection"})
    assert "targets.clamp" in names
