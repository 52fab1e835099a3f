"""Verification of a patch: its file, hash, signature and base, and whether its edits hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_patch.apply import apply, own_weight
from moe_patch.apply.weights.size import EditSize, WeightOf, check_size, largest_edit
from moe_patch.base.model import Base
from moe_patch.checkpoint.record import find_record
from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.errors import BadSignature, HashMismatch, OversizedEdit, PatchError, Unsigned, WrongBase
from moe_patch.evaluation.controls import measure_fall
from moe_patch.evaluation.rules import scoring_of
from moe_patch.evaluation.scoring import score_answers
from moe_patch.patch import Patch, check_base, load
from moe_patch.patch.signature import check_signature
from moe_patch.progress import Progress

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from moe_patch.checkpoint import Checkpoint

HELD = 0.9
"""The share of a patch's facts that a model must say for its edits to hold."""


class Verdict(IntEnum):
    """The result, in the order of the checks. Each value is an exit code of `moe-patch verify`.

    Codes 1 and 2 are reserved for other errors and for wrong usage.
    """

    SOUND = 0
    UNREADABLE = 10  # the file cannot be read or violates the format
    ALTERED = 11  # the content does not have the hash that the file declares
    UNSIGNED = 12
    BAD_SIGNATURE = 13  # malformed, of another patch, or by a key that is not trusted
    WRONG_BASE = 14
    NOT_HELD = 15  # the model says too few of the facts
    OVERSIZED = 16  # a change is many times as large as the expert that it changes
    MOVED = 17  # what the patch should leave alone became less likely than it says itself


_OF_ERROR = {
    HashMismatch: Verdict.ALTERED,
    Unsigned: Verdict.UNSIGNED,
    BadSignature: Verdict.BAD_SIGNATURE,
    WrongBase: Verdict.WRONG_BASE,
    OversizedEdit: Verdict.OVERSIZED,
}


@dataclass(frozen=True, slots=True)
class Signers:
    """The trusted public keys, and whether a patch must be signed."""

    trusted: Sequence[Ed25519PublicKey]
    required: bool = False  # refuse a patch without a signature


@dataclass(frozen=True, slots=True)
class Verification:
    """The verdict on one patch file, and the evidence for it."""

    path: Path
    verdict: Verdict
    reason: str = ""
    hash: str | None = None
    signed_by: str | None = None
    checked: tuple[
        str, ...
    ] = ()  # the checks that passed: file, hash, signature, base, sizes, edits, controls
    largest: EditSize | None = None  # the change that is largest for its expert
    held: float | None = None  # share of facts that the patched model says; None if none asks anything
    missed: tuple[str, ...] = ()  # ids of the other facts
    controls: int | None = None  # the number of the patch's controls; None if it could not be read
    fall: float | None = None  # of the controls' mean log-probability, in nats a token

    def to_json(self) -> dict[str, Any]:
        """Plain data; the verdict appears as a name and as an exit code."""
        named = {"path": str(self.path), "verdict": self.verdict.name.lower(), "exit_code": int(self.verdict)}
        largest = self.largest and asdict(self.largest) | {"ratio": self.largest.ratio}
        return asdict(self) | named | {"largest": largest}


def verify_patch(
    path: Path,
    *,
    signers: Signers | None = None,
    checkpoint: Callable[[], Checkpoint] | None = None,
    base: Callable[[], Base] | None = None,
    at_least: float = HELD,
    chat: bool | None = None,
    allow_large: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Run the checks on a patch file in order, and stop at the first that fails.

    Args:
        signers: the trusted signers; None skips the signature check.
        checkpoint: opens the base's checkpoint, to compare fingerprints; no weights are loaded.
        base: opens the model, to compare fingerprints and to ask about the facts. Neither this nor
            `checkpoint` is called before the file itself has passed.
        at_least: the share of facts, 0 to 1, that the model must say. By COUNTERFACT's rule the model must
            prefer the new answer to the true one. By ZsRE's it must give the new answer word for word. Facts
            whose new answer is the true one do not count; if there are no others, only 0 is enough.
        chat: ask under the chat template; None asks as the patch was built.
        allow_large: as in `moe_patch.apply`. With a base, the largest change is reported all the same.

    Raises:
        ModelError: the model cannot be opened. Problems of the patch are never raised: they are the result.
        EvaluationError: the facts cannot be asked.
    """
    found: dict[str, Any] = {"checked": ()}
    try:
        patch = load(path)
        count = len(patch.controls.prompts) if patch.controls is not None else 0
        found |= {"hash": patch.hash, "checked": ("file", "hash"), "controls": count}
        if signers is not None:
            found["signed_by"] = _signer(path, patch, signers)
            found["checked"] += ("signature",) if found["signed_by"] else ()
        if checkpoint is not None:
            stored = checkpoint()
            _check_stored(patch, stored, progress)
            found["checked"] += ("base",)
            _measure(patch, stored.weight, found, allow_large)
        if base is None:
            return Verification(path, Verdict.SOUND, **found)
        opened = base()
        check_base(patch, opened.fingerprint_like(patch.base, progress))
        found["checked"] = (*(done for done in found["checked"] if done not in {"base", "sizes"}), "base")
        _measure(patch, partial(own_weight, opened), found, allow_large)
    except PatchError as error:
        return Verification(path, _OF_ERROR.get(type(error), Verdict.UNREADABLE), str(error), **found)
    if reason := _ask(opened, patch, at_least, patch.chat if chat is None else chat, found, progress):
        return Verification(path, Verdict.NOT_HELD, reason, **found)
    if reason := _hold(opened, patch, found):
        return Verification(path, Verdict.MOVED, reason, **found)
    return Verification(path, Verdict.SOUND, **found)


def _measure(patch: Patch, weight_of: WeightOf, found: dict[str, Any], allow_large: bool) -> None:
    """Note the largest change, and that none is too large, or raise OversizedEdit."""
    found["largest"] = largest_edit(patch, weight_of)
    if not allow_large:
        check_size(patch, found["largest"])
    found["checked"] += ("sizes",)


def _signer(path: Path, patch: Patch, signers: Signers) -> str | None:
    try:
        return check_signature(path, patch.hash, signers.trusted)
    except Unsigned:
        if signers.required:
            raise
        return None


def _check_stored(patch: Patch, stored: Checkpoint, progress: Progress | None) -> None:
    """Raise WrongBase unless the checkpoint is the patch's base; it says so if it is the base, but merged."""
    found = stored.fingerprint_like(patch.base, progress=progress)
    try:
        check_base(patch, found)
    except WrongBase as error:
        record = find_record(stored.folder)
        if record is None or (record.base.fingerprint().root, record.result) != (patch.base.root, found.root):
            raise
        this = ", this one among them" if patch.hash in {merged.hash for merged in record.patches} else ""
        raise WrongBase(
            f"{stored.name} is the patch's base with patches merged into it{this}, as its hashes prove: take "
            "them out with moe-patch unmerge, or name the base itself"
        ) from error


def _ask(
    base: Base, patch: Patch, at_least: float, chat: bool, found: dict[str, Any], progress: Progress | None
) -> str:
    """Note what share of the facts holds. Returns why that is too little; nothing if it is enough."""
    if patch.kind == "prompt":
        return (
            "it changes prompts alone, so no model holds its facts: measure it with moe-patch eval"
            if at_least > 0
            else ""
        )
    telling = [fact for fact in patch.facts if not fact.changes_nothing]
    if not telling:
        return "no fact asks for a new answer, so nothing shows that it works" if at_least > 0 else ""
    missed = _missed(base, patch, telling, chat, progress)
    held = 1 - len(missed) / len(telling)
    found |= {"held": held, "missed": missed}
    if held < at_least:
        return f"the model says {held:.1%} of the facts; at least {at_least:.1%} were expected"
    found["checked"] += ("edits",)
    return ""


def _hold(base: Base, patch: Patch, found: dict[str, Any]) -> str:
    """Note how far the controls move. Returns why that is too far; nothing if it is not."""
    if patch.controls is None:
        return ""
    found["fall"] = fall = measure_fall(base, patch, patch.controls)
    if not fall <= patch.controls.bound:
        return (
            f"answers that should stay became less likely by {fall:.3g} nats a token, and the patch says "
            f"at most {patch.controls.bound:.3g}"
        )
    found["checked"] += ("controls",)
    return ""


def _missed(
    base: Base, patch: Patch, facts: Sequence[Fact], chat: bool, progress: Progress | None
) -> tuple[str, ...]:
    """The ids of those of the facts that the patched model does not say."""
    rivals = {fact: _rival(fact, patch.schema) for fact in facts}
    new = [(fact.text, fact.target_new) for fact in facts]
    true = [(fact.text, rival) for fact, rival in rivals.items() if rival is not None]
    with apply(base, patch, check=False, allow_large=True):  # both were checked
        scores = score_answers(base, [*new, *true], chat=chat, progress=progress, stage="facts")
    said = dict(zip([*new, *true], scores, strict=True))
    return tuple(
        fact.id
        for fact, rival in rivals.items()
        if not (
            said[fact.text, fact.target_new].exact
            if rival is None
            else said[fact.text, fact.target_new].logprob > said[fact.text, rival].logprob
        )
    )


def _rival(fact: Fact, schema: FactSchema) -> str | None:
    """The answer that the new one must beat; None where it must be given word for word."""
    return fact.target_true if scoring_of([fact], schema).rule == "counterfact" else None
