"""What a build's options mean as counted work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moe_patch.data.facts import Fact
from moe_patch.elicit.own_text import MOST_TOKENS
from moe_patch.errors import ConfigError
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.delta import DeltaOptions
from moe_patch.methods.mote.method import MoTEOptions
from moe_patch.planning.outline import ModelOutline
from moe_patch.planning.stages import USUAL_ANSWER, USUAL_PROMPT, USUAL_STEPS, Job
from moe_patch.tuning.layers import EARLY

_CHARACTERS = 4  # of a token, in most languages and tokenizers


def plan_job(
    model: ModelOutline, method: Method[Any], options: MethodOptions, facts: int | Sequence[Fact]
) -> Job:
    """The job of a build with these options.

    Layers that are left open are taken to be one, a quarter of the way up, as tracing usually finds.

    Args:
        model: the model.
        method: the method.
        options: of the method.
        facts: their number, or themselves, whose lengths then count.

    Raises:
        ConfigError: the method trains a bypass, whose steps are not counted, or the model has no experts.
        ModelError: a layer that is named is dense or out of range.
    """
    if not isinstance(options, DeltaOptions):
        raise ConfigError(
            f"no plan for {method.pretty_name}: only methods that search target values and solve are counted"
        )
    if not model.editable:
        raise ConfigError(f"{model.name} has no experts to edit")
    layers = tuple(model.base.layer(index).index for index in sorted(set(options.layers)))
    prompt, answer = _lengths(facts)
    own = options.needs_text and options.corpus is None
    return Job(
        facts=facts if isinstance(facts, int) else len(facts),
        layers=layers or (_early(model),),
        trace=not layers,
        own_text=own,
        corpus_tokens=_preserved(options, own=own),
        contexts=1 + options.targets.contexts,
        shares=len(options.targets.shares),
        facts_per_pass=options.targets.facts_per_pass,
        batch_size=options.batch_size,
        steps=min(options.targets.steps, USUAL_STEPS),
        prompt=prompt + (options.targets.context_tokens if options.targets.contexts else 0),
        answer=answer,
        tucker=isinstance(options, MoTEOptions),
    )


def _preserved(options: DeltaOptions, *, own: bool) -> int:
    if not options.needs_text:
        return 0
    return min(options.corpus_tokens, MOST_TOKENS) if own else options.corpus_tokens


def _early(model: ModelOutline) -> int:
    depth = EARLY * (len(model.layers) - 1)
    return min(model.editable, key=lambda index: (abs(index - depth), index))


def _lengths(facts: int | Sequence[Fact]) -> tuple[int, int]:
    """Tokens of a prompt and of an answer: usual ones, or the longest, to which all are padded."""
    if isinstance(facts, int) or not facts:
        return USUAL_PROMPT, USUAL_ANSWER
    prompt = max(len(fact.text) for fact in facts)
    answer = max(len(fact.target_new) for fact in facts)
    return 1 + round(prompt / _CHARACTERS), max(1, round(answer / _CHARACTERS))
