"""Target values kept in the cache, so that methods and settings which differ only in the solve share them.

An entry is addressed by what the model computes for the batch's own prompts: the residual stream at the
edited tokens after the layer, and the loss of every target. These follow from every weight below and above,
and from every delta that is live, so that no patched or fine-tuned model is taken for another. They cost two
forward passes, where a search takes one forward and one backward pass a step. Another machine, or another
number of threads, may compute other last bits, and then searches again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_patch import cache
from moe_patch.facts import Fact
from moe_patch.methods.measure import measure
from moe_patch.model import Base
from moe_patch.progress import Progress
from moe_patch.prompts import encode_essence, encode_fact
from moe_patch.targets import TargetOptions, Targets, find_targets, target_losses


def shared_targets(
    base: Base,
    facts: Sequence[Fact],
    layer: int,
    options: TargetOptions,
    progress: Progress | None = None,
    *,
    prefixes: Sequence[str],
) -> Targets:
    """As `find_targets`, from the cache where it has them and the options allow it."""
    if not options.use_cache:
        return find_targets(base, facts, layer, options, progress, prefixes=prefixes)
    address = _address(base, facts, layer, options, prefixes)
    stored = cache.load("targets", address)
    if stored is None:
        found = find_targets(base, facts, layer, options, progress, prefixes=prefixes)
        cache.store("targets", address, _tensors(found))
        return found
    if progress is not None:
        progress("targets", len(facts) * options.steps, len(facts) * options.steps)
    return _targets(stored)


def _address(
    base: Base, facts: Sequence[Fact], layer: int, options: TargetOptions, prefixes: Sequence[str]
) -> dict[str, Any]:
    """Everything that target values depend on."""
    style = options.style
    rewrites = [encode_fact(base.tokenizer, fact, style, prefix=p) for fact in facts for p in prefixes]
    essences = [encode_essence(base.tokenizer, fact) for fact in facts]
    per_pass = options.facts_per_pass * len(prefixes)
    _, present = measure(base, [*rewrites, *essences], [layer], layer, per_pass)  # (N, d_m)
    computed = hashlib.sha256(present.contiguous().numpy().tobytes())
    computed.update(repr(target_losses(base, facts, options)).encode())
    prompts = [[prompt.ids, prompt.edited, prompt.target] for prompt in (*rewrites, *essences)]
    return {
        "version": 1,
        "layer": layer,
        "options": options.model_dump(mode="json", exclude={"use_cache"}),
        "contexts": len(prefixes),
        "facts": len(facts),
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        "computed": computed.hexdigest(),
    }


def _tensors(targets: Targets) -> dict[str, Tensor]:
    return {
        "value": targets.value.cpu().contiguous(),
        "start": targets.start.cpu().contiguous(),
        "loss_before": torch.tensor(targets.loss_before, dtype=torch.float64),
        "loss_after": torch.tensor(targets.loss_after, dtype=torch.float64),
        "steps": torch.tensor(targets.steps),
    }


def _targets(stored: dict[str, Tensor]) -> Targets:
    return Targets(
        value=stored["value"],
        start=stored["start"],
        loss_before=tuple(stored["loss_before"].tolist()),
        loss_after=tuple(stored["loss_after"].tolist()),
        steps=tuple(stored["steps"].tolist()),
    )
