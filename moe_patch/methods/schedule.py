"""The schedule that the delta methods share: batches of facts, several layers a batch.

As in MEMIT (arXiv 2210.07229, section 4.3), target values z* are found at the last edit layer L. Then, for
each edit layer l upwards, the residual stream at L is measured with all lower layers already edited, and
layer l is asked for its share of what is missing, r = (z* - h^L) / (layers left). What a method does with one
layer's rows and residuals is its `LayerSolver`.

Batches follow one another on the model as earlier ones left it. Protected facts of earlier batches keep their
outputs: their rows join each later problem with zero residual. An earlier fact about a subject that a new one
is about as well cannot stay where it is, because the two have nearly one key. It takes part in the search for
their common delta, and its output is asked to move by that delta, to a value at which both answers are said.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from moe_patch.algebra import Rows, sort_rows
from moe_patch.capture import ExpertCall, capture_keys
from moe_patch.errors import ConfigError, TargetError
from moe_patch.facts import Fact
from moe_patch.methods.layer_edit import LayerEdit, LayerProblem, LayerSolution, LayerSolver
from moe_patch.model import Base
from moe_patch.nullspace import NullSpace
from moe_patch.patch import LayerDelta
from moe_patch.progress import Progress
from moe_patch.prompts import Batch, Prompt, encode_fact, pad_right, pad_token
from moe_patch.targets import (
    TargetOptions,
    Targets,
    context_prefixes,
    facts_together,
    find_targets,
    target_losses,
)

__all__ = ["LayerProblem", "LayerSolution", "LayerSolver", "edit_in_batches", "key_rows"]

logger = logging.getLogger(__name__)

Results = list[dict[str, JsonValue]]


def edit_in_batches(
    base: Base,
    facts: Sequence[Fact],
    layers: Sequence[int],
    solver: LayerSolver,
    projections: Mapping[int, NullSpace] | None,
    targets: TargetOptions,
    *,
    batch_size: int | None,
    protect_earlier: bool,
    progress: Progress | None = None,
) -> tuple[dict[int, LayerDelta], Results]:
    """Run the schedule over all facts; the base is as before when it returns or raises.

    Args:
        projections: per layer, what keeps preserved text unmoved; None edits unprojected.
        batch_size: facts solved together; None is all of them.
        protect_earlier: ask of each batch that it leaves the outputs of earlier batches' facts alone.

    Returns:
        the delta of each layer, and one result per fact: its target's loss in nats a token before, with the
        target value in place (both in its own batch) and by the finished patch; the steps of the search; and
        the ids of the facts that share its change.

    Raises:
        ConfigError: there are no facts.
        TargetError: a fact cannot be tokenised as needed, or no row of a layer may be edited.
    """
    if not facts:
        raise ConfigError("there are no facts to build a patch from")
    schedule = _Schedule(base, sorted(layers), solver, projections, targets, protect_earlier, progress)
    size = batch_size or len(facts)
    try:
        for start in range(0, len(facts), size):
            schedule.edit(facts[start : start + size])
            if progress is not None:
                progress("facts edited", min(start + size, len(facts)), len(facts))
        for result, loss in zip(schedule.results, target_losses(base, facts, targets), strict=True):
            result["loss_edited"] = round(loss, 4)
    finally:
        schedule.off()
    return schedule.deltas(), schedule.results


class _Schedule:
    """The edits of all layers, as they stand after some batches."""

    def __init__(
        self,
        base: Base,
        layers: list[int],
        solver: LayerSolver,
        projections: Mapping[int, NullSpace] | None,
        targets: TargetOptions,
        protect_earlier: bool,
        progress: Progress | None,
    ) -> None:
        self.results: Results = []
        self._base, self._layers, self._solver = base, layers, solver
        self._projections = projections or {}
        self._targets, self._protect, self._progress = targets, protect_earlier, progress
        self._prefixes = context_prefixes(base, targets)
        self._facts: list[Fact] = []  # of the batches so far
        self._edits = {layer: LayerEdit(base, layer) for layer in layers}

    def edit(self, batch: Sequence[Fact]) -> None:
        """Find the batch's target values, and ask every layer in turn for its share."""
        base, count, prefixes = self._base, len(batch), self._prefixes
        moved = self._moved_along(batch)
        members = [*batch, *(self._facts[number] for number in moved)]
        found = find_targets(
            base, members, self._layers[-1], self._targets, self._progress, prefixes=prefixes
        )
        prompts = [
            encode_fact(base.tokenizer, fact, self._targets.style, prefix=prefix, answer=False)
            for fact in members
            for prefix in prefixes
        ]
        for number, layer in enumerate(self._layers):
            per_pass = self._targets.facts_per_pass * len(prefixes)
            call, present = _measure(base, prompts, layer, self._layers[-1], per_pass)
            missing = found.value.cpu() - present[:: len(prefixes)]  # (T + moved, d_m)
            share = missing / (len(self._layers) - number)
            earlier = None
            if self._protect:
                earlier = torch.zeros(len(self._facts), share.shape[1])
                earlier[moved] = share[count:]
            own = _first(call, count * len(prefixes))
            rows = key_rows(own, base.layer(layer).num_experts, count, self._projections.get(layer))
            _check_rows(rows, layer, batch)
            edit = self._edits[layer]
            solution = self._solver(edit.problem(rows, share[:count], earlier))
            edit.add(rows, share[:count], earlier, solution)
        self._record(batch, members, found, moved)
        self._facts += batch

    def off(self) -> None:
        """Take all deltas out of the model."""
        for edit in self._edits.values():
            edit.off()

    def deltas(self) -> dict[int, LayerDelta]:
        """What goes into a patch."""
        return {layer: edit.delta() for layer, edit in self._edits.items()}

    def _moved_along(self, batch: Sequence[Fact]) -> list[int]:
        """Protected facts of earlier batches that share their change with a fact of this one."""
        if not self._protect:
            return []
        known = len(self._facts)
        groups = facts_together([*self._facts, *batch], self._targets.fact_token)
        return sorted(number for group in groups if group[-1] >= known for number in group if number < known)

    def _record(
        self, batch: Sequence[Fact], members: Sequence[Fact], found: Targets, moved: list[int]
    ) -> None:
        """One result for each fact of the batch, and the new company of those that moved along."""
        known = len(self.results)
        for i in range(len(batch)):
            self.results.append(
                {
                    "loss_before": round(found.loss_before[i], 4),
                    "loss_target": round(found.loss_after[i], 4),
                    "steps": found.steps[i],
                }
            )
        places = [*range(known, len(self.results)), *moved]  # of the members among the results
        for group in facts_together(members, self._targets.fact_token):
            for number in group:
                company: list[JsonValue] = [members[other].id for other in group if other != number]
                self.results[places[number]]["shared_with"] = company


def key_rows(call: ExpertCall, num_experts: int, facts: int, projection: NullSpace | None) -> Rows:
    """Rows g k~ of each fact, averaged over its prompts.

    Args:
        call: keys (N, K, d_k) and routing of N = facts * prompts-per-fact tokens, fact by fact.
        num_experts: E; an expert E or above in `call` marks a slot that reached none.
        projection: removes from each expert's keys what preserved text uses; None keeps them whole.
    """
    assert call.keys is not None
    tokens, slots, width = call.keys.shape
    prompts = tokens // facts
    expert = call.experts.reshape(-1).cpu()  # (N*K,)
    fact = torch.arange(tokens).repeat_interleave(slots) // prompts
    value = (call.gates[..., None].float() * call.keys.float()).reshape(-1, width).cpu() / prompts
    real = expert < num_experts
    place, at = torch.unique(expert[real] * facts + fact[real], return_inverse=True)
    summed = torch.zeros(len(place), width).index_add(0, at, value[real])  # (nnz, d_k)
    rows = sort_rows(summed, place // facts, place % facts, facts)
    if projection is None:
        return rows
    rows = projection.project_rows(rows)
    kept = rows.value.abs().amax(1) > 0  # a fully protected expert keeps no row
    return Rows(rows.value[kept], rows.expert[kept], rows.fact[kept], facts)


def _check_rows(rows: Rows, layer: int, batch: Sequence[Fact]) -> None:
    """Refuse a layer in which nothing may be edited, and name the facts for which nothing may."""
    reached = torch.bincount(rows.fact, minlength=rows.num_facts) > 0  # (T,)
    if not bool(reached.any()):
        raise TargetError(
            f"layer {layer}: all experts that the facts reach are protected, so nothing can be edited there: "
            "give more preserved text, choose --unseen edit, or leave the layer out"
        )
    if missed := [fact.id for fact, some in zip(batch, reached.tolist(), strict=True) if not some]:
        logger.warning(
            "layer %d: all experts that these facts reach are protected, so it does nothing for them: %s",
            layer,
            ", ".join(missed),
        )


def _measure(
    base: Base, prompts: Sequence[Prompt], layer: int, last: int, per_pass: int
) -> tuple[ExpertCall, Tensor]:
    """At each edited token: what the experts of `layer` get, and the stream (N, d_m) after `last`."""
    parts = [
        _measure_batch(
            base, pad_right(prompts[start : start + per_pass], pad_token(base.tokenizer)), layer, last
        )
        for start in range(0, len(prompts), per_pass)
    ]
    return _joined([call for call, _ in parts]), torch.cat([present for _, present in parts])


def _measure_batch(base: Base, batch: Batch, layer: int, last: int) -> tuple[ExpertCall, Tensor]:
    present: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output[0] if isinstance(output, tuple) else output  # (B, S, d_m)
        present.append(states[torch.arange(len(batch.edited)), batch.edited].float().cpu())

    hook = base.decoder_layers[last].register_forward_hook(keep)
    try:
        calls = capture_keys(base, batch.ids, batch.mask, batch.edited, {layer, last})
    finally:
        hook.remove()
    return calls[layer], present[0]


def _joined(calls: Sequence[ExpertCall]) -> ExpertCall:
    """The tokens of several calls, one call after the other."""
    keys = [call.keys for call in calls if call.keys is not None]
    return ExpertCall(
        keys=torch.cat(keys),
        gates=torch.cat([call.gates for call in calls]),
        experts=torch.cat([call.experts for call in calls]),
    )


def _first(call: ExpertCall, tokens: int) -> ExpertCall:
    """The first tokens of a call."""
    keys = None if call.keys is None else call.keys[:tokens]
    return ExpertCall(keys, call.gates[:tokens], call.experts[:tokens])
