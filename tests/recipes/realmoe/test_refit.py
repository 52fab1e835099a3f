"""The down projections of all experts at once, against a least-squares solver."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.realmoe.refit import refit_down


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), ridge=st.floats(1e-3, 10.0))
def test_the_fit_is_the_ridge_regression_over_all_experts(seed: int, ridge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens, count, experts, width, d = 40, 7, 4, 3, 5
    keys = torch.randn(tokens, count, generator=generator, dtype=torch.float64)
    weights = torch.rand(tokens, 2, generator=generator, dtype=torch.float64)
    chosen = torch.rand(tokens, experts, generator=generator).topk(2, dim=-1).indices
    neurons = torch.stack([torch.randperm(count, generator=generator)[:width] for _ in range(experts)])
    targets = torch.randn(tokens, d, generator=generator, dtype=torch.float64)
    prior = torch.randn(experts, width, d, generator=generator, dtype=torch.float64)
    found = refit_down(keys, weights, chosen, neurons, targets, prior, ridge)
    features = torch.zeros(tokens, experts, width, dtype=torch.float64)
    for token in range(tokens):
        for weight, expert in zip(weights[token], chosen[token], strict=True):
            features[token, expert] = weight * keys[token, neurons[expert]]
    flat = features.view(tokens, -1)
    strength = ridge * flat.square().sum() / flat.shape[1]
    stacked = torch.cat([flat, strength.sqrt() * torch.eye(flat.shape[1], dtype=torch.float64)])
    wanted = torch.cat([targets, strength.sqrt() * prior.view(-1, d)])
    expected = torch.linalg.lstsq(stacked, wanted).solution
    torch.testing.assert_close(found.view(-1, d), expected)
