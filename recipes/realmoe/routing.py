"""Routers that choose experts which complete each other.

A layer has two halves of experts, and one direction of its input decides between them. A half has top-k
pairs of siblings, whose router rows are the half's, plus and minus a direction of the pair. Of two siblings,
one has a logit above that of the half alone and the other one below it, so the top-k are always one of each
pair. Each pair can then hold its own part of the dense layer's neurons, and every token still reaches all
parts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Logits as standard deviations over tokens. The half's must outweigh the pairs', or a token near its middle
# gets experts of both halves. The pairs' decide how far the weights of the chosen are from even, which is
# all that the dense model knows; but bf16 keeps three digits, and must show them beside the half's.
HALF_LOGIT = 4.0
PAIR_LOGIT = 0.1


def route(inputs: Tensor, rows: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The weights of the chosen experts, which sum to one, and their numbers: both (T, top_k)."""
    chosen = (inputs @ rows.T).softmax(-1).topk(top_k, dim=-1)
    return chosen.values / chosen.values.sum(-1, keepdim=True), chosen.indices


def tree_router(inputs: Tensor, activity: Tensor, top_k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Router rows (4 top_k, d) of a layer, and the part of the neurons that each expert starts from.

    Siblings have neighbouring numbers, and the same part. The parts (4 top_k, N) are true for the expert's
    neurons; those of a half's pairs are disjoint, equally large, and made of the neurons whose activity the
    pair's direction tells most of.

    Args:
        inputs: (T, d), what the router sees.
        activity: (T, N), the norm of what each neuron adds to the layer's output.
        top_k: how many experts each token gets.
        seed: of the principal components.
    """
    half = _directions(inputs, activity, 1, seed)[0]
    half = half * (HALF_LOGIT / (inputs @ half).std())
    rows, parts = [], []
    for sign in (1, -1):
        inside = sign * (inputs @ half) > 0
        seen, active = inputs[inside], activity[inside]
        pairs = _directions(seen, active, top_k, seed)  # (top_k, d)
        above = seen @ pairs.T > 0  # (T_half, top_k)
        energy = active.square()
        told = torch.stack([(energy[side].mean(0) - energy[~side].mean(0)).abs() for side in above.T])
        for pair, part in zip(pairs, _draft(told), strict=True):
            step = pair * (PAIR_LOGIT / (seen @ pair).std())
            rows += [sign * half + step, sign * half - step]
            parts += [part, part]
    return torch.stack(rows), torch.stack(parts)


def _directions(inputs: Tensor, activity: Tensor, count: int, seed: int) -> Tensor:
    """Directions (count, d) whose signs tell the principal components of `activity`, and halve the tokens."""
    torch.manual_seed(seed)
    points = functional.normalize(activity, dim=-1)
    points = points - points.mean(0)
    components = torch.pca_lowrank(points, q=count + 4, center=False, niter=3)[2]  # (N, count + 4)
    # Routers have no bias. The mean input stands for one: its product with any input is nearly the same.
    mean = inputs.mean(0)
    found = []
    for component in components.T[:count]:
        score = points @ component
        direction = _discriminant(inputs, score > score.median())
        found.append(direction - mean * ((inputs @ direction) / (inputs @ mean)).median())
    return torch.stack(found)


def _discriminant(inputs: Tensor, labels: Tensor, ridge: float = 1e-2) -> Tensor:
    """The direction (d,) of a linear discriminant between the two classes of `labels`."""
    centred = inputs - inputs.mean(0)
    spread = centred.T @ centred / len(centred)  # (d, d)
    spread.diagonal().add_(ridge * spread.diagonal().mean())
    return torch.linalg.solve(spread, inputs[labels].mean(0) - inputs[~labels].mean(0))


def _draft(preference: Tensor) -> Tensor:
    """Parts (k, N) of equal size: each in turn takes the free neuron that it prefers most, by (k, N)."""
    taken = torch.zeros_like(preference, dtype=torch.bool)
    wanted = preference.clone()
    for turn in range(preference.shape[1]):
        part = turn % len(preference)
        neuron = int(wanted[part].argmax())
        taken[part, neuron] = True
        wanted[:, neuron] = -1.0
    return taken
