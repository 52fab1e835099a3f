"""What the model says of each fact with the finished patch on: the last step of every build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.evaluation import Setting, patched
from moe_patch.evaluation.scoring import answer_text, continue_greedily, encode_answer, score_answers
from moe_patch.patch import Patch
from moe_patch.progress import Progress


def with_outcomes(
    base: Base,
    patch: Patch,
    progress: Progress | None = None,
    rewrite: Callable[[str], str] | None = None,
) -> Patch:
    """The patch, with what came of each fact in its results.

    `loss_edited` is the loss of the new answer in nats a token. `taken` says whether greedy decoding gives
    the whole new answer. If it does not, `says` is what it gives instead.

    Args:
        base: without the patch; a stack that the patch was built on is on.
        patch: a finished patch, with a result for each fact.
        progress: called with the stage "facts asked".
        rewrite: what a patch that changes prompts alone makes of one.

    Raises:
        NumericalError: the patched model's logits are not finite.
    """
    setting = Setting(chat=patch.chat, rewrite=rewrite)
    asked = [(setting.asked(fact.text), fact.target_new) for fact in patch.facts]
    # as it was solved: rounding is reported where it happens
    with patched(base, patch, setting, mode="hook", check=False, allow_large=True):
        scores = score_answers(base, asked, chat=patch.chat, progress=progress, stage="facts asked")
        missed = [number for number, score in enumerate(scores) if not score.exact]
        encoded = [encode_answer(base, *asked[number], chat=patch.chat) for number in missed]
        instead = continue_greedily(
            base,
            [asked[number][0] for number in missed],
            [len(answer.answer) for answer in encoded],
            chat=patch.chat,
        )
    results: list[dict[str, JsonValue]] = [
        {**result, "loss_edited": round(-score.logprob, 4), "taken": score.exact}
        for result, score in zip(patch.results, scores, strict=True)
    ]
    for number, answer in zip(missed, instead, strict=True):
        results[number]["says"] = answer_text(base, answer)
    return replace(patch, results=tuple(results))
