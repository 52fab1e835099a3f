"""How much of an edit half precision loses, and how much compensated rounding keeps."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.apply.weights.rounding import round_on_keys
from moe_patch.base.model import Base
from moe_patch.errors import ConfigError
from tests.margins import at_least, at_most
from tests.tiny import dense_delta, tiny_base, tiny_patch

HALVES = [torch.bfloat16, torch.float16]


def problem(scale: float, keys: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A weight (96, 64), a delta, and keys for which it adds `scale` times the weight's own output."""
    generator = torch.Generator().manual_seed(seed)
    weight = 0.02 * torch.randn(96, 64, generator=generator)
    key = torch.randn(keys, 64, generator=generator)
    wanted = scale * 0.02 * 8 * torch.randn(keys, 96, generator=generator)
    return weight, torch.linalg.lstsq(key, wanted).solution.T, key


@pytest.mark.parametrize("dtype", HALVES)
def test_every_element_is_one_of_the_two_numbers_beside_it(dtype: torch.dtype) -> None:
    weight, delta, key = problem(0.01)
    exact = weight + delta
    rounded = round_on_keys(exact, dtype, key)
    assert rounded.dtype == dtype
    assert rounded.shape == exact.shape
    nearest = exact.to(dtype)
    low, high = (torch.nextafter(nearest, torch.full_like(nearest, way)) for way in (-torch.inf, torch.inf))
    beside = torch.where(exact < nearest, low, high)
    assert bool(((rounded == nearest) | (rounded == beside)).all())
    assert bool((rounded != nearest).any())


@pytest.mark.quality
@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 0.01), (torch.float16, 0.001)])
def test_the_facts_outputs_keep_what_nearest_rounding_loses(dtype: torch.dtype, scale: float) -> None:
    weight, delta, key = problem(scale)
    weight = weight.to(dtype).float()
    wanted = key @ delta.T

    def lost(rounded: Tensor) -> float:
        return float((key @ (rounded.float() - weight).T - wanted).norm() / wanted.norm())

    plain = lost((weight + delta).to(dtype))
    at_least("share lost to the nearest", plain, 0.1)
    at_most("of which compensation leaves", lost(round_on_keys(weight + delta, dtype, key)) / plain, 0.2)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_without_keys_or_in_full_precision_it_is_plain_rounding(dtype: torch.dtype) -> None:
    weight, delta, key = problem(0.01)
    exact = weight + delta
    assert torch.equal(round_on_keys(exact, dtype, key[:0]), exact.to(dtype))
    assert torch.equal(round_on_keys(exact, torch.float32, key), exact)


def half_base() -> Base:
    base = tiny_base("qwen3_moe")
    base.model.to(torch.bfloat16)
    return base


def test_a_merge_says_what_share_of_each_facts_edit_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    base = half_base()
    patch, layer = tiny_patch(base, [1], scale=0.01), base.layer(1)
    delta = patch.layers[1]
    with layer.weights() as stacked:
        before = stacked.float().clone()  # (E, d_m, d_k)
    wanted, done = torch.zeros(4, layer.d_model), torch.zeros(4, layer.d_model)
    with caplog.at_level(logging.WARNING), apply(base, patch) as applied, layer.weights() as stacked:
        change, exact = stacked.float() - before, dense_delta(delta, layer)
        for row, (expert, fact) in enumerate(
            zip(delta.rows.expert.tolist(), delta.rows.fact.tolist(), strict=True)
        ):
            wanted[fact] += exact[expert] @ delta.rows.value[row]
            done[fact] += change[expert] @ delta.rows.value[row]
    lost = ((wanted - done).norm(dim=1) / wanted.norm(dim=1))[wanted.norm(dim=1) > 0]
    assert applied.lost["worst"] == pytest.approx(float(lost.max()), rel=0.02)
    assert applied.lost["median"] == pytest.approx(float(lost.median()), rel=0.02)
    assert lost.max() > 0.1
    assert "rounding lost" in caplog.text


@pytest.mark.quality
def test_compensated_merges_and_hooks_lose_less(caplog: pytest.LogCaptureFixture) -> None:
    base = half_base()
    patch = tiny_patch(base, scale=0.01)
    bare = base.layer(1).down(0).clone()
    with apply(base, patch) as applied:
        nearest = applied.lost
    with caplog.at_level(logging.WARNING), apply(base, patch, rounding="compensated") as applied:
        at_most("share of the loss that is left", applied.lost["median"] / nearest["median"], 0.5)
    with apply(base, patch, mode="hook") as applied:
        assert applied.lost == {}
    assert torch.equal(base.layer(1).down(0), bare)


def test_full_precision_loses_next_to_nothing(caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base("qwen3_moe")
    with caplog.at_level(logging.WARNING), apply(base, tiny_patch(base)) as applied:
        assert applied.lost["worst"] < 1e-3
    assert not caplog.text
    with pytest.raises(ConfigError, match="rounding 'up' is unknown"):
        apply(base, tiny_patch(base), rounding="up")  # type: ignore[arg-type]
