"""Whether the facts of a new patch go together with those of the patches that are on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from moe_patch.errors import WrongBase
from moe_patch.patch import Patch
from moe_patch.patch.base_record import BaseRecord
from moe_patch.stack import Stacked
from moe_patch.stack.addition import check_addition
from moe_patch.stack.check import Finding
from moe_patch.stack.combine import combine_deltas
from moe_patch.stack.operations import join_bases
from moe_patch_serving.api.members import Members, ServedMember
from moe_patch_serving.api.standing import Standing
from moe_patch_serving.errors import FactsConflict


def check_harmony(
    standing: Standing, member: ServedMember, patch: Patch, *, allow_conflicts: bool
) -> tuple[Finding, ...]:
    """What `moe-patch stack check` would say of a patch that is added, without findings about others.

    It reads all patches that are on again, and may take seconds for many facts.

    Args:
        standing: the patches that are on.
        member: the new patch's name.
        patch: the new patch.
        allow_conflicts: whether conflicts are warnings.

    Raises:
        FactsConflict: they do not go together, and that is not allowed.
        WrongBase: the patch is for another base than those that are on.
        MoePatchError: a patch that is on cannot be read.
    """
    ground, live = loaded_again(standing.ground.members), loaded_again(standing.live)
    combined = combine_deltas(ground, standing.ground.combine)
    applied = [one.patch for one in live if one.patch.kind == "delta"]
    applied = applied if combined is None else [combined.patch, *applied]
    for one in (*ground, *live):
        _require_one_base(one, member.name, patch)
    on = _told_apart([*ground, *live, Stacked(member.name, patch)])
    found = check_addition(on[:-1], on[-1], applied, allow_conflicts=allow_conflicts)
    refusals = [finding for finding in found if finding.level == "refuse"]
    if refusals:
        more = f", and {len(refusals) - 1} more like it" if len(refusals) > 1 else ""
        raise FactsConflict(
            f"{refusals[0].text}{more}: nothing was changed. Add it with allow_conflicts (--allow-conflicts) "
            "if that is wanted",
            {"findings": [{"level": finding.level, "text": finding.text} for finding in found]},
        )
    return found


def loaded_again(members: Members) -> list[Stacked]:
    """The patches, read from the server's copies."""
    return [Stacked(member.name, member.patch.load(), member.number) for member in members]


def _require_one_base(one: Stacked, name: str, patch: Patch) -> None:
    """Refuse a patch of another base before anything is computed; workers compare it with the checkpoint."""
    known, base = one.patch.base, patch.base
    if known.format == base.format:
        join_bases(BaseRecord.of(known), BaseRecord.of(base), name)
    shared = known.shapes.keys() & base.shapes.keys()
    if any(known.shapes[layer] != base.shapes[layer] for layer in shared):
        raise WrongBase(f"{name} was built for experts of other sizes than {one.name}")


def _told_apart(stacked: Sequence[Stacked]) -> list[Stacked]:
    """The patches with names of their own: findings name them."""
    names = Counter(member.name for member in stacked)
    return [
        member
        if names[member.name] == 1
        else Stacked(f"{member.name} ({member.hash[7:15]})", member.patch, member.number)
        for member in stacked
    ]
