"""What a converted model is worth: its language, the use of its experts, and how different they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Choose = Callable[[Tensor, int], Tensor]
Routing = tuple[
    Tensor, Tensor, Tensor
]  # what the routers of both architectures return: logits, weights, experts


@torch.no_grad()
def perplexity(model: nn.Module, text: Tensor, rows: int = 2) -> float:
    """Of text (N, L), each row by itself, its first token apart."""
    total = 0.0
    for part in text.split(rows):
        logits = model(input_ids=part).logits[:, :-1].float()
        total += float(functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum"))
    return float(torch.tensor(total / text[:, 1:].numel()).exp())


@contextmanager
def rerouted(moe: nn.Module, choose: Choose) -> Iterator[None]:
    """Inside, every token gets the experts that `choose` makes of its own, with the weights of its own."""

    def replace(router: nn.Module, inputs: object, routing: Routing) -> Routing:
        logits, weights, chosen = routing
        return logits, weights, choose(chosen, logits.shape[-1])

    with ExitStack() as stack:
        for layer in moe.model.layers:
            stack.enter_context(layer.mlp.gate.register_forward_hook(replace))
        yield


def random_experts(seed: int = 0) -> Choose:
    """Any experts, all different."""
    generator = torch.Generator().manual_seed(seed)

    def choose(chosen: Tensor, experts: int) -> Tensor:
        drawn = torch.rand(len(chosen), experts, generator=generator)
        return drawn.topk(chosen.shape[-1], dim=-1).indices

    return choose


def siblings(chosen: Tensor, experts: int) -> Tensor:
    """The sibling of each expert."""
    return chosen ^ 1


def other_half(chosen: Tensor, experts: int) -> Tensor:
    """The experts at the same places of the other half."""
    return (chosen + experts // 2) % experts


@torch.no_grad()
def loads(moe: nn.Module, text: Tensor, rows: int = 2) -> Tensor:
    """The tokens of `text` that reach each expert, relative to an even share: (layers, experts)."""
    counts = torch.zeros(len(moe.model.layers), moe.config.num_local_experts)
    with ExitStack() as stack:
        for row, layer in zip(counts, moe.model.layers, strict=True):

            def count(router: nn.Module, inputs: object, routing: Routing, row: Tensor = row) -> None:
                row += torch.bincount(routing[2].flatten(), minlength=len(row))

            stack.enter_context(layer.mlp.gate.register_forward_hook(count))
        for part in text.split(rows):
            moe(input_ids=part)
    return counts / counts.mean(-1, keepdim=True)


@torch.no_grad()
def likeness(moe: nn.Module, text: Tensor) -> Tensor:
    """The mean cosine of what two experts write of the same token of `text`: (layers, experts, experts)."""
    found = []

    def compare(block: nn.Module, inputs: tuple[Tensor]) -> None:
        experts, seen = block.experts, inputs[0].flatten(0, 1).float()  # (T, d)
        gate, up = (seen @ experts.gate_up_proj.float().transpose(1, 2)).chunk(2, dim=-1)  # (E, T, width)
        written = (functional.silu(gate) * up) @ experts.down_proj.float().transpose(1, 2)  # (E, T, d)
        written = functional.normalize(written, dim=-1)
        found.append(torch.einsum("etd,ftd->ef", written, written) / len(seen))

    with ExitStack() as stack:
        for layer in moe.model.layers:
            stack.enter_context(layer.mlp.register_forward_pre_hook(compare))
        moe(input_ids=text)
    return torch.stack(found)


@dataclass(frozen=True)
class Report:
    """A converted model against its dense one, on held-out text."""

    tokens: int
    dense_perplexity: float
    perplexity: float
    random_perplexity: float  # with random experts instead of the routers' own
    half_perplexity: float  # with the experts of the other half
    sibling_perplexity: float  # with each expert's sibling
    load: tuple[float, float]  # of the least and the most used expert of a layer, relative to an even share
    likeness: float  # mean cosine between what two experts of a layer write of the same input
    closest: float  # that of each expert and the one most like it
    parameters: int
    active_parameters: int  # of those, what a token is multiplied with; embeddings count once, as the head

    def to_json(self) -> str:
        """As an object with the fields above."""
        return json.dumps(asdict(self), indent=2)


def measure(dense: nn.Module, moe: nn.Module, text: Tensor) -> Report:
    """Everything of a report, on `text` (N, L)."""
    instead = []
    for choose in (random_experts(), other_half, siblings):
        with rerouted(moe, choose):
            instead.append(perplexity(moe, text))
    used, alike = loads(moe, text), likeness(moe, text[:1])
    experts = alike.shape[-1]
    others = alike.masked_fill(torch.eye(experts, dtype=torch.bool), float("nan"))
    return Report(
        tokens=text.numel(),
        dense_perplexity=perplexity(dense, text),
        perplexity=perplexity(moe, text),
        random_perplexity=instead[0],
        half_perplexity=instead[1],
        sibling_perplexity=instead[2],
        load=(float(used.amin(-1).mean()), float(used.amax(-1).mean())),
        likeness=float(others.nanmean()),
        closest=float(others.nan_to_num(-1.0).amax(-1).mean()),
        parameters=sum(p.numel() for p in moe.parameters()),
        active_parameters=active_parameters(moe),
    )


def active_parameters(moe: nn.Module) -> int:
    """How many parameters a token is multiplied with."""
    experts = sum(p.numel() for name, p in moe.named_parameters() if ".experts." in name)
    share = moe.config.num_experts_per_tok / moe.config.num_local_experts
    return sum(p.numel() for p in moe.parameters()) - experts + round(experts * share)
