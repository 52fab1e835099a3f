"""Target values in the cache, so that methods and settings that differ only in the solve share them.

The address of an entry has the base's fingerprint, and what the model computes for the batch's own prompts:
the residual stream at the edited tokens after the layer, and the loss of every target. These depend on every
live delta, so a patched model almost always has another address. The exception is a patch in experts which
the prompts reach after the edit but not before. Therefore a stored entry is also tested: with its values in
place, the losses must be the stored ones.

The test takes a few forward passes. A search takes one forward and one backward pass for every step. Another
machine, or another number of threads, may differ in the last bits. It then searches again.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_patch.base.keys import measure_keys
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.io import cache
from moe_patch.progress import Progress
from moe_patch.targets.groups import facts_together, held_prompts
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets, losses_in_place, target_losses
from moe_patch.targets.values import ENDINGS, Targets

logger = logging.getLogger(__name__)

LIMIT = 512 * 2**20  # most bytes of stored entries; 50 facts at a width of 2,048 take 0.8 million


def shared_targets(
    base: Base,
    facts: Sequence[Fact],
    layer: int,
    options: TargetOptions,
    progress: Progress | None = None,
    *,
    prefixes: Sequence[str],
) -> Targets:
    """As `find_targets`, but taken from the cache if they are there and the options allow it.

    Raises:
        TargetError: as for `find_targets`.
    """
    if not options.use_cache:
        return find_targets(base, facts, layer, options, progress, prefixes=prefixes)
    address = _address(base, facts, layer, options, prefixes)
    if (stored := cache.load_tensors("targets", address)) is not None:
        found = _targets(stored)
        losses = losses_in_place(base, facts, layer, options, found.value, prefixes=prefixes)
        if all(map(_alike, losses, found.loss_after)):
            if progress is not None:
                progress("targets", len(facts) * options.steps, len(facts) * options.steps)
            return found
        logger.info("cached target values no longer give the losses stored with them: searching again")
    found = find_targets(base, facts, layer, options, progress, prefixes=prefixes)
    cache.store_tensors("targets", address, _tensors(found), limit=LIMIT)
    return found


def _alike(loss: float, other: float) -> bool:
    """Whether two losses, in nats, differ by no more than rounding in half precision can explain."""
    return math.isclose(loss, other, rel_tol=0.01, abs_tol=0.01)


def _address(
    base: Base, facts: Sequence[Fact], layer: int, options: TargetOptions, prefixes: Sequence[str]
) -> dict[str, Any]:
    """Everything that target values depend on."""
    style, groups = options.style, facts_together(facts, options.fact_token)
    rewrites = [encode_fact(base.reader, fact, style, prefix=p) for fact in facts for p in prefixes]
    together = ([facts[number] for number in group] for group in groups)
    held = [prompt for some in together for prompt, _ in held_prompts(base, some, options)]
    per_pass = options.facts_per_pass * len(prefixes)
    _, present = measure_keys(base, [*rewrites, *held], [layer], layer, per_pass)  # (N, d_m)
    computed = hashlib.sha256(present.contiguous().numpy().tobytes())
    computed.update(repr(target_losses(base, facts, options)).encode())
    prompts = [[prompt.ids, prompt.edited, prompt.target] for prompt in (*rewrites, *held)]
    return {
        "version": 4,
        "base": base.fingerprint([]).address(),
        "layer": layer,
        "options": options.model_dump(mode="json", exclude={"use_cache"}),
        "contexts": len(prefixes),
        "groups": groups,
        "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
        "computed": computed.hexdigest(),
    }


def _tensors(targets: Targets) -> dict[str, Tensor]:
    return {
        "value": targets.value.cpu().contiguous(),
        "start": targets.start.cpu().contiguous(),
        "loss_before": torch.tensor(targets.loss_before, dtype=torch.float64),
        "loss_after": torch.tensor(targets.loss_after, dtype=torch.float64),
        "margin": torch.tensor(targets.margin, dtype=torch.float64),
        "steps": torch.tensor(targets.steps),
        "ended": torch.tensor([ENDINGS.index(ending) for ending in targets.ended]),
    }


def _targets(stored: dict[str, Tensor]) -> Targets:
    return Targets(
        value=stored["value"],
        start=stored["start"],
        loss_before=tuple(stored["loss_before"].tolist()),
        loss_after=tuple(stored["loss_after"].tolist()),
        margin=tuple(stored["margin"].tolist()),
        steps=tuple(stored["steps"].tolist()),
        ended=tuple(ENDINGS[number] for number in stored["ended"].tolist()),
    )
