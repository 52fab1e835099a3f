"""Drop facts from a patch exactly: each layer's system is solved again without them.

At the lowest edited layer the result equals a build without these facts. Higher layers are close to it, but
not equal: their keys and residuals were measured with all facts edited below, including the dropped ones.
docs/stacks.md says how close.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

import torch
from torch import Tensor

from moe_patch.errors import PatchError
from moe_patch.io.wording import did_you_mean
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import select_rows
from moe_patch.solve.algebra import edit_response, ridge_solve
from moe_patch.stack.layers import holds_own_rows, layer_system, ridge_shrinkage, solved_at

logger = logging.getLogger(__name__)


def drop_facts(patch: Patch, ids: Collection[str]) -> Patch:
    """The patch without the facts that have these ids. No model and no data are needed.

    Raises:
        PatchError: a fact is not in the patch, none would be left, or a layer cannot be solved again.
    """
    if patch.kind != "delta":
        raise PatchError(
            f"facts can only be dropped from patches of kind delta; this one is of kind {patch.kind}, "
            "whose experts were trained on all facts together: build it again without them"
        )
    known = [fact.id for fact in patch.facts]
    if missing := sorted(set(ids) - set(known)):
        listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        raise PatchError(
            f"there is no fact {missing[0]!r} in the patch: it has {listed}{did_you_mean(missing[0], known)}"
        )
    kept = [number for number, fact_id in enumerate(known) if fact_id not in ids]
    _warn_of_shared(patch, ids)
    if not kept:
        raise PatchError("no fact would be left: take the whole patch off instead")
    return Patch(
        kind="delta",
        method=patch.method,
        hyperparameters=patch.hyperparameters,
        base=patch.base,
        facts=tuple(patch.facts[number] for number in kept),
        results=tuple(patch.results[number] for number in kept) if patch.results else (),
        layers={layer: _without(patch, layer, torch.tensor(kept)) for layer in patch.layers},
        parents=(patch.hash,),
        schema=patch.schema,
    )


def _warn_of_shared(patch: Patch, ids: Collection[str]) -> None:
    """Warn about kept facts whose target values were searched together with those of a dropped fact."""
    for fact, result in zip(patch.facts, patch.results, strict=False):
        company = result.get("shared_with")
        names = map(str, company) if isinstance(company, list) else ()
        gone = sorted(set(names) & set(ids))
        if gone and fact.id not in ids:
            logger.warning(
                "fact %s is about the same subject as %s, and both share one target value: the dropped fact "
                "still has an effect on it. If that matters, build the patch again without the dropped fact",
                fact.id,
                ", ".join(gone),
            )


def _without(patch: Patch, layer: int, kept: Tensor) -> LayerDelta:
    """One layer with only the facts `kept` (n,) and those that it protects."""
    delta, solved = patch.layers[layer], layer_system(patch, layer)
    place = torch.cat([torch.arange(solved.protected), kept + solved.protected])  # (P + n,)
    ridge = solved.ridge * ridge_shrinkage(patch, solved.matrix, place)
    left = ridge_solve(solved.matrix[place][:, place], solved.wanted[place], ridge)
    own = select_rows(delta.fact_rows, kept)
    rows = own if holds_own_rows(delta) else select_rows(delta.rows, place)
    assert delta.residual is not None  # `layer_system` would have refused it
    residual = delta.residual[kept]
    if solved_at(patch, layer) != layer:  # not solved itself: its residual is what it adds
        change = edit_response(left, rows, own) - edit_response(delta.left, delta.rows, own)  # (n, d_m)
        residual = residual + change.float()
    fact_rows = None if rows is own else own
    return LayerDelta.from_solution(left, rows, fact_rows=fact_rows, residual=residual, ridge=ridge)
