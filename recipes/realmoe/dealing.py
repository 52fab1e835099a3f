"""Which neurons each expert holds: those that matter to its tokens and that no other expert of them has."""

from __future__ import annotations

import torch
from torch import Tensor

COVERED_TWICE = 1e-6  # what a neuron counts that another expert of the token holds too: better than nothing


def deal_neurons(
    energy: Tensor, chosen: Tensor, parts: Tensor, width: int, apart: float, sweeps: int = 3
) -> Tensor:
    """The neurons of each expert, (experts, width), in rising order.

    Coordinate ascent on the energy that is covered, summed over tokens and neurons, where a token covers a
    neuron that one of its experts holds. It starts from `parts`.

    Args:
        energy: (T, N), the squared norm that each neuron adds to the output.
        chosen: (T, top_k), each token's experts.
        parts: (experts, N), true for the neurons of the part that an expert starts from.
        width: neurons of an expert.
        apart: how much less a neuron counts, from 0 to 1, when the expert's sibling holds it.
        sweeps: how often each expert chooses again.
    """
    held = parts.to(energy.dtype)  # (experts, N)
    reached = torch.zeros(len(energy), len(parts)).scatter_(1, chosen, 1.0)  # (T, experts)
    for _ in range(sweeps):
        for expert in range(len(parts)):
            mine = reached[:, expert] > 0
            others = reached[mine]
            others[:, expert] = 0
            own = energy[mine]
            missing = (others @ held) < 0.5  # (T_e, N)
            gain = (own * missing).sum(0) * (1 - apart * held[expert ^ 1]) + COVERED_TWICE * own.sum(0)
            held[expert] = 0
            held[expert, gain.topk(width).indices] = 1
    return torch.stack([row.nonzero()[:, 0] for row in held])


def shares(energy: Tensor, weights: Tensor, chosen: Tensor, neurons: Tensor) -> Tensor:
    """By how much to multiply the dense columns of each expert's neurons: (experts, width).

    A neuron counts with the summed router weights of those of a token's experts that hold it. The factor
    makes this sum one in the mean, by least squares over the expert's tokens.
    """
    experts, count = len(neurons), energy.shape[1]
    by_expert = torch.zeros(len(energy), experts).scatter_(1, chosen, weights)  # (T, experts)
    held = torch.zeros(experts, count).scatter_(1, neurons, 1.0)
    factors = []
    for expert in range(experts):
        mine = by_expert[:, expert] > 0
        total = by_expert[mine] @ held[:, neurons[expert]]  # (T_e, width)
        own = energy[mine][:, neurons[expert]]
        factors.append((own * total).sum(0) / (own * total.square()).sum(0).clamp_min(1e-12))
    return torch.stack(factors)
