"""The schedule that the delta methods share: batches of facts, several layers a batch, earlier batches protected.

As MEMIT (arXiv 2210.07229, section 4.3): target values z* are found at the last edit layer L; then for each edit layer l
upwards the residual stream at L is measured with all lower layers already edited, and layer l is asked for its share of what
is missing, r = (z* - h^L) / (layers left). What a method does with one layer's rows and residuals is its `LayerSolver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.algebra import Rows, concatenate, kernel, one_left_per_row, sort_rows
from moe_patch.capture import ExpertCall, Handle, attach, capture_keys
from moe_patch.contexts import generate_contexts
from moe_patch.facts import Fact
from moe_patch.methods.base import Progress
from moe_patch.model import Base
from moe_patch.nullspace import NullSpace
from moe_patch.patch import LayerDelta
from moe_patch.prompts import Prompt, encode_fact, pad_right, pad_token
from moe_patch.targets import TargetOptions, find_targets


@dataclass(frozen=True, slots=True, eq=False)
class LayerProblem:
    """One layer's share of one batch. Earlier facts come first, with zero residual: their outputs are to stay."""

    layer: int
    rows: Rows  # of T facts
    residual: Tensor  # (T, d_m) fp32


@dataclass(frozen=True, slots=True, eq=False)
class LayerSolution:
    """What a solver adds to its layer; `left` has a row per fact, or one per row of `rows` if `per_row`."""

    left: Tensor  # (T, d_m) or (nnz, d_m)
    ridge: float  # absolute lambda
    per_row: bool = False
    objectives: tuple[float, ...] = ()


class LayerSolver(Protocol):
    """A method's own part."""

    def __call__(self, problem: LayerProblem) -> LayerSolution: ...


class LayerEdit:
    """One layer's growing delta, live in the model while the schedule runs."""

    def __init__(self, base: Base, layer: int) -> None:
        self._layer = base.layer(layer)
        self._handle: Handle | None = None
        self.rows: Rows | None = None
        self.left = torch.empty(0)
        self.residual = torch.empty(0, self._layer.d_model)  # (T, d_m): what the whole delta was asked to add
        self.per_row = False
        self.ridge = 0.0
        self.objectives: list[tuple[float, ...]] = []

    def problem(self, rows: Rows, residual: Tensor, protect: bool) -> LayerProblem:
        """New facts' rows and residuals, behind the earlier facts' where those are to be protected."""
        if self.rows is None or not protect:
            return LayerProblem(self._layer.index, rows, residual)
        still = torch.zeros(self.rows.num_facts, residual.shape[1])
        return LayerProblem(self._layer.index, concatenate(self.rows, rows), torch.cat([still, residual]))

    def add(self, rows: Rows, residual: Tensor, solution: LayerSolution, protect: bool) -> None:
        """Add a solution for new facts' rows to the delta, and switch the sum on."""
        self.residual = torch.cat([self.residual, residual + self._already(rows)])
        earlier, whole = self.rows, rows if self.rows is None else concatenate(self.rows, rows)
        left = solution.left
        if earlier is not None:
            if not protect:  # the solution knows the new facts only
                left = _spread(left, rows, whole, earlier.num_facts, solution.per_row)
            left = left + _spread(self.left, earlier, whole, 0, solution.per_row)
        self.rows, self.left, self.per_row, self.ridge = whole, left, solution.per_row, solution.ridge
        self.objectives.append(solution.objectives)
        self.off()
        self._handle = attach(self._layer, self.delta())

    def _already(self, rows: Rows) -> Tensor:
        """(T_new, d_m): what the delta so far adds for new facts, whose residuals were measured with it on."""
        if self.rows is None:
            return torch.zeros(rows.num_facts, self._layer.d_model)
        mine = one_left_per_row(self.rows) if self.per_row else self.rows
        return (kernel(rows, mine) @ self.left.double()).float()

    def off(self) -> None:
        """Take the delta out of the model; it is kept here."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def delta(self) -> LayerDelta:
        """The delta as it goes into a patch."""
        assert self.rows is not None
        rows = self.rows
        fact = torch.arange(len(rows.value)) if self.per_row else rows.fact
        return LayerDelta(
            left=self.left.float(),
            right=rows.value.float(),
            expert=rows.expert.int(),
            fact=fact.int(),
            residual=self.residual.float(),
            keys=rows if self.per_row else None,
            ridge=self.ridge,
        )


def _spread(left: Tensor, rows: Rows, whole: Rows, offset: int, per_row: bool) -> Tensor:
    """A left factor of `rows` as one of `whole`, in which the facts of `rows` are numbered from `offset` on."""
    if per_row:
        place = rows.expert * whole.num_facts + rows.fact + offset
        at = torch.searchsorted(whole.expert * whole.num_facts + whole.fact, place)
        spread = left.new_zeros(len(whole.value), left.shape[1])  # (nnz, d_m)
    else:
        at = torch.arange(rows.num_facts) + offset
        spread = left.new_zeros(whole.num_facts, left.shape[1])  # (T, d_m)
    spread[at] = left
    return spread


def edit_in_batches(
    base: Base,
    facts: Sequence[Fact],
    layers: Sequence[int],
    solver: LayerSolver,
    projections: dict[int, NullSpace] | None,
    targets: TargetOptions,
    *,
    batch_size: int | None,
    protect_earlier: bool,
    progress: Progress | None = None,
) -> tuple[dict[int, LayerDelta], list[dict[str, float | int]]]:
    """Run the schedule over all facts; the base is as before when it returns.

    Args:
        projections: per layer, what keeps preserved text unmoved; None edits unprojected.
        batch_size: facts solved together; None is all of them.
        protect_earlier: ask of each batch that it leaves the outputs of earlier batches' facts alone.

    Returns:
        the delta of each layer, and one result per fact (losses in nats a target token).
    """
    layers = sorted(layers)
    edits = {layer: LayerEdit(base, layer) for layer in layers}
    size = batch_size or len(facts)
    results: list[dict[str, float | int]] = []
    prefixes = ("", *generate_contexts(base, targets.contexts, targets.context_tokens, targets.seed))
    try:
        for start in range(0, len(facts), size):
            batch = facts[start : start + size]
            found = find_targets(base, batch, layers[-1], targets, progress)
            prompts = [
                encode_fact(base.tokenizer, fact, targets.style, prefix=prefix, answer=False)
                for fact in batch
                for prefix in prefixes
            ]
            for number, layer in enumerate(layers):
                call, hidden = _measure(base, prompts, layer, layers[-1])
                rows = key_rows(
                    call, base.layer(layer).num_experts, len(batch), projections and projections[layer]
                )
                missing = found.value.cpu() - hidden[:: len(prefixes)].float().cpu()  # (T, d_m)
                residual = missing / (len(layers) - number)
                edit = edits[layer]
                solution = solver(edit.problem(rows, residual, protect_earlier))
                edit.add(rows, residual, solution, protect_earlier)
            losses = target_losses(base, batch, targets)
            for i in range(len(batch)):
                results.append(
                    {
                        "loss_before": round(found.loss_before[i], 4),
                        "loss_target": round(found.loss_after[i], 4),
                        "loss_edited": round(losses[i], 4),
                        "steps": found.steps[i],
                    }
                )
            if progress is not None:
                progress("facts edited", start + len(batch), len(facts))
    finally:
        for edit in edits.values():
            edit.off()
    return {layer: edit.delta() for layer, edit in edits.items()}, results


def key_rows(call: ExpertCall, num_experts: int, facts: int, projection: NullSpace | None) -> Rows:
    """Rows g k~ of each fact, averaged over its prompts.

    Args:
        call: keys (N, K, d_k) and routing of N = facts * prompts-per-fact tokens, fact by fact.
        projection: removes from each expert's keys what preserved text uses; None keeps them whole.
    """
    assert call.keys is not None
    tokens, slots, width = call.keys.shape
    prompts = tokens // facts
    expert = call.experts.reshape(-1).cpu()  # (N*K,)
    fact = torch.arange(tokens).repeat_interleave(slots) // prompts
    value = (call.gates[..., None].float() * call.keys.float()).reshape(-1, width).cpu() / prompts
    real = expert < num_experts  # not the sentinel of a slot without an expert
    place, at = torch.unique(expert[real] * facts + fact[real], return_inverse=True)
    summed = torch.zeros(len(place), width).index_add(0, at, value[real])  # (nnz, d_k)
    experts = place // facts
    rows = sort_rows(summed, experts, place % facts, facts)
    if projection is None:
        return rows
    rows = projection.project_rows(rows)
    kept = rows.value.abs().amax(1) > 0  # a fully protected expert keeps no row
    return Rows(rows.value[kept], rows.expert[kept], rows.fact[kept], facts)


def _measure(base: Base, prompts: Sequence[Prompt], layer: int, last: int) -> tuple[ExpertCall, Tensor]:
    """At each prompt's edited token: what the experts of `layer` get, and the residual stream (N, d_m) after `last`."""
    ids, mask, columns = pad_right(prompts, pad_token(base.tokenizer))
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output[0] if isinstance(output, tuple) else output
        seen.append(states[torch.arange(len(columns)), columns.to(states.device)])

    hook = base.decoder_layers[last].register_forward_hook(keep)
    try:
        calls = capture_keys(base, ids, mask, columns, sorted({layer, last}))
    finally:
        hook.remove()
    return calls[layer], seen[0]


def target_losses(base: Base, facts: Sequence[Fact], options: TargetOptions) -> list[float]:
    """Negative log-likelihood of each fact's new target, in nats a token, for the model as it is now."""
    losses: list[float] = []
    for start in range(0, len(facts), options.facts_per_pass):
        prompts = [
            encode_fact(base.tokenizer, f, options.style)
            for f in facts[start : start + options.facts_per_pass]
        ]
        ids, mask, _ = pad_right(prompts, pad_token(base.tokenizer))
        with torch.no_grad():
            logits = base.model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device)).logits
        for row, prompt in enumerate(prompts):
            assert prompt.target is not None
            span = slice(prompt.target - 1, len(prompt.ids) - 1)
            wanted = torch.tensor(prompt.ids[prompt.target :], device=logits.device)
            losses.append(float(F.cross_entropy(logits[row, span].float(), wanted)))
    return losses
