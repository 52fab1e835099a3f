"""Putting a patch on a model, and taking it off again.

Imported by `evaluation`, `checkpoint`, `methods` and everything above them. It imports `base`, `bypass` and
what is below them.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from functools import partial
from typing import Literal, get_args

from torch import Tensor, nn

from moe_patch.apply.bypass import attach_bypass
from moe_patch.apply.hook import hook_deltas
from moe_patch.apply.merge import merge_deltas
from moe_patch.apply.weights.rounding import Rounding
from moe_patch.apply.weights.size import refuse_oversized
from moe_patch.apply.weights.survival import STATED_LOSS
from moe_patch.base.experts import Handle
from moe_patch.base.model import Base
from moe_patch.base.occupied import hashes_on
from moe_patch.base.opening import wrap
from moe_patch.errors import ConfigError, PatchError
from moe_patch.patch import Patch, check_base
from moe_patch.progress import Progress

__all__ = ["Applied", "Handle", "Mode", "Rounding", "apply", "own_weight"]

logger = logging.getLogger(__name__)

Mode = Literal["merge", "hook"]


class Applied(Handle):
    """A patch that is on a model.

    `lost` says what share of an edit was lost to rounding when the patch was merged: for the `worst` fact and
    for the `median` one, over all layers. It is empty if nothing was rounded.
    """

    def __init__(self, stack: ExitStack, lost: dict[str, float]) -> None:
        super().__init__(stack)
        self.lost = lost


def apply(
    model: Base | nn.Module,
    patch: Patch,
    *,
    mode: Mode = "merge",
    rounding: Rounding = "nearest",
    check: bool = True,
    allow_large: bool = False,
    progress: Progress | None = None,
) -> Applied:
    """Put a patch on a model until the returned handle is removed or its `with` block ends.

    "merge" adds the deltas to the weights, in place and in their dtype: full speed afterwards, and one copy
    of each touched down projection is kept. "hook" leaves the weights as they are and adds the low-rank
    products inside the experts. Patches add up, and may be removed in any order: merged weights come back bit
    for bit. A bypass adds modules of its own, which cannot be merged into weights: it is always hooked in.
    A patch of kind "prompt" changes no model, and is refused.

    Weights in half precision lose part of a small delta. `rounding` chooses how they are rounded: "nearest"
    rounds each element by itself, "compensated" keeps the outputs for the facts' own keys. A warning is
    logged if rounding loses more than `STATED_LOSS` of a fact's edit.

    A change that is many times as large as its expert is no edit of it: unless `allow_large` is on, a patch
    with a change of more than `LARGEST_RATIO` times its expert's norm is refused.

    `progress` is called while the model's weights are hashed, if they are not known.

    Raises:
        ConfigError: `mode` or `rounding` is unknown.
        WrongBase: `check` is on and the patch was built for another base.
        OversizedEdit: a change is much larger than its expert, and that is not allowed.
        PatchError: the patch is on this model already, another bypass runs beside the same layer, or the
            patch changes prompts alone.
        ModelError: the model has no such layers, or its weights are offloaded and cannot be merged into.
    """
    if rounding not in get_args(Rounding):
        raise ConfigError(f"rounding {rounding!r} is unknown; choose from {', '.join(get_args(Rounding))}")
    if mode not in get_args(Mode):
        raise ConfigError(f"mode {mode!r} is unknown; choose from {', '.join(get_args(Mode))}")
    if patch.kind == "prompt":
        raise PatchError(
            f"patch {patch.hash} changes no model, only the prompts that are asked: `moe-patch ask` and "
            "`moe-patch eval` do so; in Python, moe_patch.methods.rewriter_of gives the function that does"
        )
    base = model if isinstance(model, Base) else wrap(model, None, allow_dense=patch.kind == "bypass")
    on = hashes_on.setdefault(base.model, set())
    if patch.hash in on:
        raise PatchError(f"patch {patch.hash} is on this model already: remove it first")
    if check:
        check_base(patch, base.fingerprint_like(patch.base, progress))
    if not allow_large:
        refuse_oversized(patch, partial(own_weight, base))
    lost: dict[str, float] = {}
    with ExitStack() as stack:
        if patch.kind == "bypass":
            handle = attach_bypass(base, patch)
        elif mode == "merge":
            handle, survival = merge_deltas(base, patch, rounding)
            lost = survival.lost()
        else:
            handle = hook_deltas(base, patch)
        stack.enter_context(handle)
        on.add(patch.hash)
        stack.callback(on.discard, patch.hash)
        if lost.get("worst", 0.0) > STATED_LOSS:
            logger.warning(
                "patch %s: rounding lost %.0f%% of the worst fact's edit and %.0f%% of the median fact's: "
                "use compensated rounding or mode 'hook' to lose less",
                patch.hash,
                100 * lost["worst"],
                100 * lost["median"],
            )
        return Applied(stack.pop_all(), lost)


def own_weight(base: Base, layer: int, expert: int) -> Tensor:
    """An expert's down projection (d_m, d_k) without the patches that are merged into it.

    Raises:
        ModelError: the base has no such expert, or its weights have no data.
    """
    found = base.layer(layer)
    return found.originals[expert] if expert in found.originals else found.down(expert)
