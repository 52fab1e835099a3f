"""Whether a patch is what it says it is: file, hash, signature and base; and whether its edits hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_patch.apply import apply, layers_of
from moe_patch.base.model import Base
from moe_patch.errors import BadSignature, HashMismatch, PatchError, Unsigned, WrongBase
from moe_patch.evaluation.scoring import score_answers
from moe_patch.patch import Patch, check_base, load
from moe_patch.patch.signature import check_signature
from moe_patch.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from moe_patch.checkpoint import Checkpoint

HELD = 0.9
"""The share of a patch's facts that a model has to say for its edits to hold."""


class Verdict(IntEnum):
    """What was found, in the order of the checks; each is the exit code of `moe-patch verify`.

    1 and 2 are left to other errors and to wrong use.
    """

    SOUND = 0
    UNREADABLE = 10  # the file cannot be read, or breaks the format
    ALTERED = 11  # the content does not have the hash that the file declares
    UNSIGNED = 12
    BAD_SIGNATURE = 13  # malformed, of another patch, or not by a key that is trusted
    WRONG_BASE = 14
    NOT_HELD = 15  # the model does not say enough of the facts


_OF_ERROR = {
    HashMismatch: Verdict.ALTERED,
    Unsigned: Verdict.UNSIGNED,
    BadSignature: Verdict.BAD_SIGNATURE,
    WrongBase: Verdict.WRONG_BASE,
}


@dataclass(frozen=True, slots=True)
class Signers:
    """The public keys that are trusted, and whether a patch without a signature is refused."""

    trusted: Sequence[Ed25519PublicKey]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """A verdict on one patch file, and what it rests on.

    `checked` has the checks that passed: file, hash, signature, base, edits. `held` is the share of facts
    that the patched model says; `missed` has the ids of the others.
    """

    path: Path
    verdict: Verdict
    reason: str = ""
    hash: str | None = None
    signed_by: str | None = None
    checked: tuple[str, ...] = ()
    held: float | None = None
    missed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the verdict by its name and by its exit code."""
        named = {"path": str(self.path), "verdict": self.verdict.name.lower(), "exit_code": int(self.verdict)}
        return asdict(self) | named


def verify_patch(
    path: Path,
    *,
    signers: Signers | None = None,
    checkpoint: Callable[[], Checkpoint] | None = None,
    base: Callable[[], Base] | None = None,
    at_least: float = HELD,
    chat: bool | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a patch file, up to the first check that fails.

    Args:
        signers: whose signature to look for; None looks for none.
        checkpoint: opens the base on the disk, to hold the patch against; no weights are loaded.
        base: opens the model, to hold the patch against and to ask about its facts. Neither is called
            before the file itself has passed.
        at_least: the share of facts, 0 to 1, that the model has to say: prefer to the true answer where the
            fact has one, and give word for word otherwise.
        chat: ask under the chat template; None is as the patch was built.

    Raises ModelError and EvaluationError where a check cannot be made; what is wrong with the patch is
    in the result.
    """
    found: dict[str, Any] = {"checked": ()}
    try:
        patch = load(path)
        found |= {"hash": patch.hash, "checked": ("file", "hash")}
        if signers is not None:
            found["signed_by"] = _signer(path, patch, signers)
            found["checked"] += ("signature",) if found["signed_by"] else ()
        if checkpoint is not None:
            stored = checkpoint()
            check_base(patch, stored.fingerprint(layers_of(stored.base, patch)))
            found["checked"] += ("base",)
        if base is None:
            return Verification(path, Verdict.SOUND, **found)
        opened = base()
        check_base(patch, opened.fingerprint(layers_of(opened, patch)))
        found["checked"] = (*(done for done in found["checked"] if done != "base"), "base")
    except PatchError as error:
        return Verification(path, _OF_ERROR.get(type(error), Verdict.UNREADABLE), str(error), **found)
    missed = _missed(opened, patch, patch.chat if chat is None else chat, progress)
    held = 1 - len(missed) / len(patch.facts) if patch.facts else 1.0
    found |= {"held": held, "missed": missed}
    if held < at_least:
        reason = f"the model says {held:.1%} of the facts, and {at_least:.1%} were asked for"
        return Verification(path, Verdict.NOT_HELD, reason, **found)
    found["checked"] += ("edits",)
    return Verification(path, Verdict.SOUND, **found)


def _signer(path: Path, patch: Patch, signers: Signers) -> str | None:
    try:
        return check_signature(path, patch.hash, signers.trusted)
    except Unsigned:
        if signers.required:
            raise
        return None


def _missed(base: Base, patch: Patch, chat: bool, progress: Progress | None) -> tuple[str, ...]:
    """The ids of the facts that the model does not say with the patch on."""
    new = [(fact.text, fact.target_new) for fact in patch.facts]
    true = [(fact.text, fact.target_true) for fact in patch.facts if fact.target_true is not None]
    with apply(base, patch, check=False):
        scores = score_answers(base, [*new, *true], chat=chat, progress=progress, stage="facts")
    said = dict(zip([*new, *true], scores, strict=True))
    return tuple(
        fact.id
        for fact in patch.facts
        if not (
            said[fact.text, fact.target_new].exact
            if fact.target_true is None
            else said[fact.text, fact.target_new].logprob > said[fact.text, fact.target_true].logprob
        )
    )
