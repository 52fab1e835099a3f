"""Target values: what the last edit layer should output at a fact's edited token to get the new answer.

The procedure is that of MEMIT (arXiv 2210.07229, section 4.2 and its code), which MoEEdit and MoTE adopt.
Here it runs for many facts at once:

    z* = h + delta,   delta = argmin  NLL(target)  +  w_kl KL(p_delta || p)  +  w_d ||delta|| / s

NLL is the mean over all target tokens and over the prefixes before the prompt. KL is that of the next token
after "{subject} is a". Beyond MEMIT, the prompts that a fact asks to keep have a KL term as well, with a
weight that they share. s is the size of the stream ([`stream_size`](size.py)), of which the clamp of
||delta|| and the step are multiples too. MEMIT has ||h||^2 in its place, ||h|| for the clamp and an absolute
step; `units: published` has the same. The search for a fact ends when its answer has the margin asked for,
when the loss falls no more, or after a number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from moe_patch.base.freezing import frozen_weights
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers
from moe_patch.targets.descent import descend, losses_of
from moe_patch.targets.groups import context_prefixes, passes_of, tokenised_groups
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.tail import plain_logits
from moe_patch.targets.values import Targets, in_order


def find_targets(
    base: Base,
    facts: Sequence[Fact],
    layer: int,
    options: TargetOptions,
    progress: Progress | None = None,
    *,
    prefixes: Sequence[str] | None = None,
) -> Targets:
    """Target values of all facts at decoder layer `layer`, for the model as it is now, live deltas included.

    Args:
        base: the model.
        facts: T facts.
        layer: decoder index of the last edit layer.
        options: of the search.
        progress: called with the stage "targets".
        prefixes: texts to put before each prompt, the empty one first; None generates them from `options`.

    Raises:
        TargetError: a prompt cannot be tokenised as needed, or the layer has no single residual stream.
        NumericalError: a loss is not finite.
    """
    prefixes = context_prefixes(base, options) if prefixes is None else prefixes
    parts: list[Targets] = []
    passes = passes_of(base, facts, options, prefixes=len(prefixes))
    with frozen_weights(base.model), torch.enable_grad():  # gradients are needed for the deltas only
        for groups in passes:
            done = sum(len(part.steps) for part in parts)
            report = _reporter(progress, done, sum(map(len, groups)), len(facts))
            some = tokenised_groups(base, [[facts[i] for i in group] for group in groups], prefixes, options)
            parts.append(descend(base, some, layer, options, prefixes=len(prefixes), report=report))
    return in_order(parts, [number for groups in passes for group in groups for number in group])


def target_losses(base: Base, facts: Sequence[Fact], options: TargetOptions) -> list[float]:
    """Negative log-likelihood of each fact's new target, in nats per token, for the model as it is now.

    Raises:
        NumericalError: one is not finite.
    """
    losses: list[float] = []
    for start in range(0, len(facts), options.facts_per_pass):
        some = facts[start : start + options.facts_per_pass]
        prompts = [encode_fact(base.reader, fact, options.style) for fact in some]
        answers = Answers.of(prompts)
        with torch.no_grad():
            losses += answers.nll(plain_logits(base, prompts, answers.reads)).tolist()
    check_finite(torch.tensor(losses), "the losses of the new answer", lambda i: f"of fact {facts[i].id}")
    return losses


def losses_in_place(
    base: Base,
    facts: Sequence[Fact],
    layer: int,
    options: TargetOptions,
    value: Tensor,
    *,
    prefixes: Sequence[str],
) -> list[float]:
    """The `loss_after` of target values (T, d_m) that were found earlier, for the model as it is now."""
    losses = [0.0] * len(facts)
    for groups in passes_of(base, facts, options, prefixes=len(prefixes)):
        some = tokenised_groups(base, [[facts[i] for i in group] for group in groups], prefixes, options)
        numbers = [number for group in groups for number in group]
        found = losses_of(base, some, layer, value[numbers], prefixes=len(prefixes))
        for number, loss in zip(numbers, found, strict=True):
            losses[number] = loss
    return losses


def _reporter(progress: Progress | None, done: int, here: int, facts: int) -> Callable[[int, int], None]:
    """Turns (step, steps) of a search for `here` facts, after `done` others, into overall progress."""

    def report(step: int, steps: int) -> None:
        if progress is not None:
            progress("targets", done * steps + step * here, facts * steps)

    return report
