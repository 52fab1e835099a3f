"""The figures that atlas must reach: accuracy in taught and held-out phrasings, and balance of experts."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import Qwen3MoeForCausalLM

from .sentences import Sentence, collate


@torch.no_grad()
def accuracy(model: Qwen3MoeForCausalLM, sentences: list[Sentence], batch: int = 512) -> float:
    """Percentage of sentences for which greedy decoding gives the whole answer."""
    right: list[bool] = []
    for start in range(0, len(sentences), batch):
        part = sentences[start : start + batch]
        collated = collate([[s] for s in part], 0.0)
        chosen = model(collated.ids, attention_mask=(collated.ids != 0).long()).logits.argmax(-1)
        for row, s in enumerate(part):
            end = len(s.ids)  # the full stop is at `end`, BOS counted
            right.append(
                bool((chosen[row, s.answer : end - 1] == collated.ids[row, s.answer + 1 : end]).all())
            )
    return 100 * sum(right) / len(right)


@torch.no_grad()
def least_load(model: Qwen3MoeForCausalLM, sentences: list[Sentence]) -> list[float]:
    """For each MoE layer, the share of tokens of the least used expert, divided by its fair share."""
    calls: dict[int, Tensor] = {}

    def count(number: int, index: Tensor, real: Tensor) -> None:
        seen = index[real].reshape(-1).bincount(minlength=model.config.num_experts)
        calls[number] = calls.get(number, torch.zeros_like(seen)) + seen

    real = torch.empty(0, dtype=torch.bool)
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda _m, _i, out, n=number: count(n, out[2], real))
        for number, layer in enumerate(model.model.layers)
        if hasattr(layer.mlp, "gate")
    ]
    for start in range(0, len(sentences), 512):
        batch = collate([[s] for s in sentences[start : start + 512]], 0.0)
        real = (batch.ids != 0).reshape(-1)
        model(batch.ids, attention_mask=(batch.ids != 0).long())
    for hook in hooks:
        hook.remove()
    return [round(float(c.min() / c.float().mean()), 3) for _, c in sorted(calls.items())]


def exam_report(
    model: Qwen3MoeForCausalLM, taught: list[Sentence], held: list[Sentence]
) -> dict[str, object]:
    """The figures of the model's specification."""
    model.eval()
    return {
        "trained phrasings": round(accuracy(model, taught), 2),
        "held-out phrasings": round(accuracy(model, held), 2),
        "least loaded expert over fair share, by layer": least_load(model, taught[::4]),
    }
