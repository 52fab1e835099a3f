"""Asking a model for a patch's card: some of its facts, in several ways, other subjects, and other text."""

from __future__ import annotations

from collections.abc import Sequence

from moe_patch.base.model import Base
from moe_patch.data.corpus import Corpus
from moe_patch.evaluation.card.cost import cost_of
from moe_patch.evaluation.card.other_text import other_text
from moe_patch.evaluation.card.prompts import choose_prompts
from moe_patch.evaluation.card.report import Card, Kind, Reply, Share
from moe_patch.evaluation.drift import measure_drift
from moe_patch.evaluation.metrics import Question, Setting, own_answers
from moe_patch.evaluation.patched import patched
from moe_patch.evaluation.routing import compare_routing, record_routing
from moe_patch.evaluation.scoring import Encoded, answer_text, encode_answer
from moe_patch.patch import Patch
from moe_patch.stack.untaken import Untaken, share_taken, untaken_facts


def make_card(
    base: Base,
    patch: Patch,
    *,
    text: Corpus | None = None,
    seconds: float | None = None,
    size: int | None = None,
    setting: Setting | None = None,
) -> Card:
    """Ask the model before and with the patch; it is left as it was.

    The patch is computed beside the weights, as it was solved. If it was built on a stack, the stack should
    be on the base already.

    Args:
        base: the model without the patch.
        patch: a finished patch, with a result for each fact.
        text: what the patch should leave alone and its build has not seen; else the base writes some.
        seconds: that the build took.
        size: of the patch's file in bytes.
        setting: how prompts are run; by default under a chat template if the patch was built under one.

    Raises:
        EvaluationError: the patch has no facts, or the answer of one has no token of its own.
        NumericalError: the patched model's numbers mean nothing.
        PromptError: a fact's prompt cannot be read by the model.
    """
    setting = setting or Setting(chat=patch.chat)
    asked = choose_prompts(base, patch, setting)
    questions = [question for _, _, question in asked]
    near = list(dict.fromkeys(each.prompt for kind, _, each in asked if kind == "neighbour"))
    before = own_answers(base, questions, setting.of_base(), "card: before")
    routed = record_routing(base, near, chat=setting.chat) if near and patch.layers else None
    with patched(base, patch, setting, mode="hook", check=False, allow_large=True):
        after = own_answers(base, questions, setting, "card: with the patch")
        moved = record_routing(base, near, chat=setting.chat) if routed is not None else None
    replies = tuple(
        _reply(base, kind, made, question, was, now, setting)
        for (kind, made, question), was, now in zip(asked, before, after, strict=True)
    )
    drift, name = None, ""
    if patch.kind != "prompt":  # which leaves text that is no prompt as it is
        name, sequences = other_text(base, text)
        drift = measure_drift(base, patch, sequences, setting.progress) if sequences else None
    routing = None
    if routed is not None and moved is not None:
        routing = compare_routing(routed, moved, min(patch.layers)).similarity
    missed = tuple(untaken_facts(patch))
    return Card(
        len(patch.facts),
        _said(patch, missed, replies),
        missed,
        replies,
        name,
        drift,
        routing,
        cost_of(patch, seconds, size),
    )


def _reply(
    base: Base,
    kind: Kind,
    generated: bool,
    question: Question,
    before: Encoded,
    now: Encoded,
    setting: Setting,
) -> Reply:
    was, wanted = answer_text(base, before), question.fact.target_new
    if kind == "neighbour":
        good, wanted = now.answer == before.answer, was
    else:
        good = now == encode_answer(base, setting.asked(question.prompt), wanted, chat=setting.chat)
    says = answer_text(base, now)
    return Reply(kind, generated, question.fact.id, question.prompt, was, says, wanted, good)


def _said(patch: Patch, missed: Sequence[Untaken], replies: Sequence[Reply]) -> Share:
    """Of all facts if the build has asked them, else of those that the card asks."""
    if share_taken(patch) is not None:
        return Share(len(patch.facts) - len(missed), len(patch.facts))
    asked = [reply.good for reply in replies if reply.kind == "fact"]
    return Share(sum(asked), len(asked))
