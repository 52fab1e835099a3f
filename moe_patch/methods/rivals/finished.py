"""The end of a build that solves no layers: the patch, asked its facts, with controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.fact_file import schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.evaluation.controls import with_controls
from moe_patch.methods.base import Method
from moe_patch.methods.outcome import with_outcomes
from moe_patch.patch import Fingerprint, LayerDelta, Patch
from moe_patch.progress import Progress


def finished_patch(
    method: Method[Any],
    base: Base,
    facts: Sequence[Fact],
    *,
    fingerprint: Fingerprint,
    hyperparameters: dict[str, JsonValue],
    results: Sequence[dict[str, JsonValue]],
    layers: Mapping[int, LayerDelta] | None = None,
    bypass: Mapping[str, Tensor] | None = None,
    texts: Sequence[str] = (),
    progress: Progress | None = None,
) -> Patch:
    """The patch of a method's kind, with what came of its facts and with controls.

    Args:
        method: that built it.
        base: the bare model.
        facts: that it edits.
        fingerprint: of the base, with the layers that the patch touches.
        hyperparameters: what the patch says of its build.
        results: one for each fact; what comes of it is added.
        layers: the deltas of a patch that changes weights.
        bypass: the tensors of a bypass.
        texts: preserved texts, of which controls may be made.
        progress: called with the stage "facts asked".

    Raises:
        NumericalError: the patched model's logits are not finite.
    """
    patch = Patch(
        kind=method.kind,
        method=method.name,
        hyperparameters=hyperparameters,
        base=fingerprint,
        facts=tuple(facts),
        results=tuple(results),
        layers=dict(layers or {}),
        bypass=dict(bypass or {}),
        schema=schema_of_facts(facts),
    )
    return with_controls(base, with_outcomes(base, patch, progress), texts)
