"""Whitened bases: unit second moments of keys and outputs, unchanged products, and what is refused."""

from __future__ import annotations

import pytest
import torch

from moe_patch.errors import StatisticsError
from moe_patch.solve.moments import Moments
from moe_patch.solve.whitening import find_whitening, key_moment, output_moment, square_root
from tests.tiny import tiny_base

EPSILON = 1e-4


def keys_of(base_layer_experts: int, d_key: int, seed: int = 0) -> list[torch.Tensor]:
    """Keys (n_j, d_k) of each expert, in different numbers and scales; the last expert has none."""
    generator = torch.Generator().manual_seed(seed)
    counts = [*range(40, 40 + base_layer_experts - 1), 0]
    return [(j + 1) * torch.randn(count, d_key, generator=generator) for j, count in enumerate(counts)]


def moments_of(keys: list[torch.Tensor], layer: int = 0) -> Moments:
    return Moments(layer, torch.stack([k.T @ k for k in keys]), torch.tensor([len(k) for k in keys]))


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_second_moments_are_means_over_all_routed_pairs(model_type: str) -> None:
    layer = tiny_base(model_type).layer(0)
    keys = keys_of(layer.num_experts, layer.d_key)
    outputs = torch.cat([k @ layer.down(j).T for j, k in enumerate(keys)])  # (pairs, d_m)
    every = torch.cat(keys)
    moments = moments_of(keys)
    torch.testing.assert_close(
        key_moment(moments).float(), every.T @ every / len(every), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(
        output_moment(moments, layer).float(), outputs.T @ outputs / len(outputs), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("kind", ["in", "out", "both"])
def test_whitened_keys_and_outputs_have_unit_second_moment_and_the_same_products(kind: str) -> None:
    layer = tiny_base("qwen3_moe").layer(0)
    keys = keys_of(layer.num_experts, layer.d_key)
    whitening = find_whitening(kind, layer, moments_of(keys), EPSILON)  # type: ignore[arg-type]
    assert (whitening.inner is None, whitening.out is None) == (kind == "out", kind == "in")
    every = torch.cat(keys).double()
    outputs = torch.cat([k @ layer.down(j).T for j, k in enumerate(keys)]).double()
    if whitening.inner is not None:
        white = every @ whitening.inner.inverse
        unit = torch.eye(layer.d_key, dtype=torch.float64)
        torch.testing.assert_close(white.T @ white / len(white), unit, rtol=0, atol=1e-2)
        torch.testing.assert_close(white @ whitening.inner.root, every)
    if whitening.out is not None:
        white = outputs @ whitening.out.inverse
        moment = white.T @ white / len(white)  # of rank d_k * experts at most, so not quite the identity
        values = torch.linalg.eigvalsh(moment)
        assert values.max() <= 1.0 + 1e-6
        assert values.median() > 0.9


@pytest.mark.parametrize("kind", ["out", "both"])
def test_gradients_whiten_outputs_by_what_they_do_to_the_loss(kind: str) -> None:
    """||D'||^2 in whitened bases is then tr(G D C D^T), the second-order effect of a delta."""
    layer = tiny_base("qwen3_moe").layer(0)
    moments = moments_of(keys_of(layer.num_experts, layer.d_key))
    root = torch.randn(layer.d_model, layer.d_model, generator=torch.Generator().manual_seed(3)).double()
    gradients = root @ root.T / layer.d_model
    whitening = find_whitening(kind, layer, moments, 1e-9, gradients)  # type: ignore[arg-type]
    assert whitening.out is not None
    delta = torch.randn(layer.d_model, layer.d_key, generator=torch.Generator().manual_seed(4)).double()
    white, keys = whitening.out.inverse @ delta, torch.eye(layer.d_key, dtype=torch.float64)
    if whitening.inner is not None:
        white, keys = white @ whitening.inner.root, key_moment(moments)
    expected = float((gradients @ delta @ keys @ delta.T).trace())
    assert float(white.square().sum()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(whitening.out.root @ whitening.out.inverse @ delta, delta)
    assert find_whitening("in", layer, moments, 1e-9, gradients).out is None


def test_epsilon_is_added_to_the_second_moment() -> None:
    root = square_root(torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64)), 0.25)
    torch.testing.assert_close(root.root.diagonal(), torch.tensor([4.25, 0.25], dtype=torch.float64).sqrt())
    torch.testing.assert_close(root.root @ root.inverse, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_without_an_epsilon_it_follows_the_moments_scale(scale: float) -> None:
    second = scale * torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=torch.float64))
    wanted = scale * (second.diagonal() / scale + 1e-5)
    torch.testing.assert_close(square_root(second, None).root.diagonal(), wanted.sqrt())


def test_whitening_without_text_is_refused_and_none_needs_no_text() -> None:
    layer = tiny_base("qwen3_moe").layer(0)
    empty = Moments(0, torch.zeros(8, 24, 24), torch.zeros(8, dtype=torch.int64))
    for moments in (None, empty):
        with pytest.raises(StatisticsError, match=r"layer 0.*whitening 'in' needs"):
            find_whitening("in", layer, moments, EPSILON)
    whitening = find_whitening("none", layer, None, EPSILON)
    assert whitening.inner is None
    assert whitening.out is None


def test_moments_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(StatisticsError, match="not finite"):
        square_root(torch.full((2, 2), float("nan")), EPSILON)
