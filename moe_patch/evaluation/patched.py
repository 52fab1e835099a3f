"""The patched state of a model: with the patch on it, or with its prompts rewritten."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from moe_patch.apply import Handle, Mode, apply
from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.metrics import Setting
from moe_patch.patch import Patch, check_base


def patched(
    base: Base,
    patch: Patch,
    setting: Setting,
    *,
    mode: Mode = "merge",
    check: bool = True,
    allow_large: bool = False,
) -> AbstractContextManager[Handle | None]:
    """A block in which the model is as the patch makes it. Prompts are asked as `setting.asked` has them.

    A patch of kind "prompt" changes no model. It is compared with the base, and the rest is the setting's.

    Args:
        base: the model, without the patch.
        patch: the patch.
        setting: how the patched model is asked.
        mode: as in `moe_patch.apply`.
        check: as in `moe_patch.apply`.
        allow_large: as in `moe_patch.apply`.

    Raises:
        EvaluationError: the patch rewrites prompts, and the setting does not.
        MoePatchError: as for `moe_patch.apply`.
    """
    if patch.kind != "prompt":
        return apply(base, patch, mode=mode, check=check, allow_large=allow_large, progress=setting.progress)
    require_rewriter(patch, setting)
    if check:
        check_base(patch, base.fingerprint_like(patch.base, setting.progress))
    return nullcontext()


def require_rewriter(patch: Patch, setting: Setting) -> None:
    """Check that the setting rewrites prompts if that is all that the patch does.

    Raises:
        EvaluationError: it does not.
    """
    if patch.kind == "prompt" and setting.rewrite is None:
        raise EvaluationError(
            f"the patch changes no weight: its method, {patch.method!r}, rewrites prompts. Give a setting "
            "with rewrite=moe_patch.methods.rewriter_of(base, patch)"
        )
