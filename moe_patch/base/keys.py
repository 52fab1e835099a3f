"""Measurements at a fact's edited token: its rows g k~ at a layer, and the residual stream."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from moe_patch.base.capture import ExpertCall, capture_keys
from moe_patch.base.model import Base
from moe_patch.data.prompts import Batch, Prompt, pad_right, pad_token
from moe_patch.patch.rows import Rows, sort_rows
from moe_patch.solve.finite import check_finite, tokens_text
from moe_patch.solve.nullspace import NullSpace


def measure_keys(
    base: Base, prompts: Sequence[Prompt], layers: Collection[int], last: int, per_pass: int
) -> tuple[dict[int, ExpertCall], Tensor]:
    """Measure at each prompt's edited token, with the model as it is now, live deltas included.

    There is one forward pass, up to layer `last`, for every `per_pass` prompts.

    Returns:
        the calls of the experts of `layers`, by layer, and the residual stream (N, d_m) fp32 after `last`.

    Raises:
        NumericalError: a key, a gate or the residual stream is not finite.
    """
    batches = [
        pad_right(prompts[start : start + per_pass], pad_token(base.tokenizer))
        for start in range(0, len(prompts), per_pass)
    ]
    parts = [_measure_batch(base, batch, {*layers, last}, last) for batch in batches]
    calls = {layer: _joined([calls[layer] for calls, _ in parts]) for layer in layers}
    present = torch.cat([present for _, present in parts])  # (N, d_m)
    check_finite(
        present,
        "hidden states",
        lambda i: f"after layer {last} in {tokens_text(base.tokenizer, prompts[i].ids)}",
    )
    return calls, present


def _measure_batch(
    base: Base, batch: Batch, layers: Collection[int], last: int
) -> tuple[dict[int, ExpertCall], Tensor]:
    present: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        states = output[0] if isinstance(output, tuple) else output  # (B, S, d_m)
        present.append(states[torch.arange(len(batch.edited)), batch.edited].float().cpu())

    hook = base.decoder_layers[last].register_forward_hook(keep)
    try:
        calls = capture_keys(base, batch.ids, batch.mask, batch.edited, layers)
    finally:
        hook.remove()
    return calls, present[0]


def _joined(calls: Sequence[ExpertCall]) -> ExpertCall:
    """The tokens of several calls in one, in their order."""
    keys = [call.keys for call in calls if call.keys is not None]
    return ExpertCall(
        keys=torch.cat(keys),
        gates=torch.cat([call.gates for call in calls]),
        experts=torch.cat([call.experts for call in calls]),
    )


def first_tokens(call: ExpertCall, tokens: int) -> ExpertCall:
    """The first tokens of a call."""
    keys = None if call.keys is None else call.keys[:tokens]
    return ExpertCall(keys, call.gates[:tokens], call.experts[:tokens])


def key_rows(call: ExpertCall, num_experts: int, facts: int, projection: NullSpace | None) -> Rows:
    """Rows g k~ of each fact, averaged over its prompts.

    Args:
        call: keys (N, K, d_k) and routing of N = facts * prompts-per-fact tokens, fact by fact.
        num_experts: E; in `call`, an expert of E or above marks a slot that reached none.
        facts: how many facts there are.
        projection: removes from each expert's keys the directions that preserved text uses; None keeps all.
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
    return rows if projection is None else project_rows(rows, projection)


def project_rows(rows: Rows, projection: NullSpace) -> Rows:
    """The rows after projection, without those that it made zero, as it does at fully protected experts."""
    rows = projection.project_rows(rows)
    kept = rows.value.abs().amax(1) > 0
    return Rows(rows.value[kept], rows.expert[kept], rows.fact[kept], rows.num_facts)
