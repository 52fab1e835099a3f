"""Down projections of all experts of a layer at once, by ridge regression."""

from __future__ import annotations

import torch
from torch import Tensor


def refit_down(
    keys: Tensor,
    weights: Tensor,
    chosen: Tensor,
    neurons: Tensor,
    targets: Tensor,
    prior: Tensor,
    ridge: float,
) -> Tensor:
    """The down projections (experts, width, d) that give `targets` best, with a ridge around `prior`.

    Minimises |targets - sum_e w_e K_e D_e|^2 + r |D - prior|^2, with r = `ridge` times the mean of the
    diagonal of the normal equations, which couple the experts that share tokens.

    Args:
        keys: (T, N), the activations of all neurons of the dense layer.
        weights: (T, top_k), those of the router.
        chosen: (T, top_k), each token's experts.
        neurons: (experts, width), which neurons each expert holds.
        targets: (T, d), what the layer should write.
        prior: (experts, width, d), the projections to stay near.
        ridge: relative to the keys' mean square.
    """
    experts, width = neurons.shape
    by_expert = torch.zeros(len(keys), experts, dtype=keys.dtype).scatter_(1, chosen, weights)  # (T, experts)
    gram = keys.new_zeros(experts, width, experts, width)
    right = torch.empty_like(prior)
    for expert in range(experts):
        mine = by_expert[:, expert].nonzero()[:, 0]
        own = keys[mine][:, neurons[expert]] * by_expert[mine, expert, None]  # (T_e, width)
        right[expert] = own.T @ targets[mine]
        for other in range(expert + 1):
            both = by_expert[mine, other] > 0
            if both.any():
                theirs = keys[mine[both]][:, neurons[other]] * by_expert[mine[both], other, None]
                block = own[both].T @ theirs  # (width, width)
                gram[expert, :, other] = block
                gram[other, :, expert] = block.T
    normal = gram.view(experts * width, experts * width)
    strength = ridge * normal.diagonal().mean()
    normal.diagonal().add_(strength)
    right.add_(strength * prior)
    factor = torch.linalg.cholesky(normal)
    return torch.cholesky_solve(right.flatten(0, 1), factor).view_as(prior)
