"""Which patch of a list somebody means."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_patch.errors import UnclearPatch
from moe_patch.patch import Patch
from moe_patch.patch.member import Member, find_member
from tests.patch.patches import delta_patch

ONE, TWO = Member("capitals", delta_patch(seed=0)), Member("rivers", delta_patch(seed=1))


@pytest.mark.parametrize("name", [TWO.hash, TWO.hash[7:], TWO.hash[7:15], TWO.hash[:15], "rivers"])
def test_a_patch_is_meant_by_its_name_or_eight_digits_of_its_hash(name: str) -> None:
    assert find_member([ONE, TWO], name) is TWO


@pytest.mark.parametrize("name", [TWO.hash[7:14], TWO.hash[:14], "river", "", "sha256:"])
def test_less_means_none(name: str) -> None:
    with pytest.raises(UnclearPatch, match="there are: capitals, rivers") as caught:
        find_member([ONE, TWO], name)
    assert caught.value.meant == ()


def test_a_name_that_two_have_says_whose_it_is() -> None:
    other: Member[Patch] = replace(TWO, name="capitals")
    with pytest.raises(UnclearPatch, match="could be any of") as caught:
        find_member([ONE, other], "capitals")
    assert caught.value.meant == (ONE.hash, other.hash)
