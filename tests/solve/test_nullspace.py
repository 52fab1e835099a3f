"""Null spaces: the directions that count as used, what the projection leaves, and experts with few tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moe_patch.errors import ConfigError, StatisticsError
from moe_patch.patch.rows import sort_rows
from moe_patch.solve import algebra
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import null_space

D_KEY = 24


def preserved_keys(rank: int, tokens: int, seed: int) -> Tensor:
    """Keys (tokens, d_k) that span `rank` directions."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, rank, generator=generator) @ torch.randn(rank, D_KEY, generator=generator)


def moments_of(*keys: Tensor, layer: int = 5) -> Moments:
    """Moments of a layer whose expert j saw the j-th keys (n_j, d_k)."""
    second = torch.stack([(key.double().T @ key.double()).float() for key in keys])
    return Moments(layer, second, torch.tensor([len(key) for key in keys]))


def with_eigenvalues(*values: float) -> Moments:
    """One expert, 100 tokens, whose mean second moment is diagonal."""
    return Moments(0, 100 * torch.diag(torch.tensor(values))[None], torch.tensor([100]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, D_KEY - 4), st.integers(0, 2**31 - 1))
def test_edits_leave_keys_in_the_preserved_span_unmoved(rank: int, seed: int) -> None:
    keys = preserved_keys(rank, 100, seed)
    space = null_space(moments_of(keys), energy=1 - 1e-6)
    assert space.ranks == {0: rank}
    generator = torch.Generator().manual_seed(seed + 1)
    rows = sort_rows(torch.randn(3, D_KEY, generator=generator), torch.zeros(3), torch.arange(3), num_facts=3)
    projected = space.project_rows(rows)
    left = algebra.ridge_solve(algebra.edit_kernel(projected), torch.randn(3, 8, generator=generator), 0.1)
    delta = algebra.expert_delta(left, projected, 0)
    assert delta.norm() > 1e-3
    assert (delta @ keys.T).norm() <= 1e-6 * delta.norm() * keys.norm()


def test_projection_is_orthogonal_and_changes_nothing_twice() -> None:
    space = null_space(moments_of(preserved_keys(10, 100, 0)), energy=0.9)
    keys = torch.randn(7, D_KEY, dtype=torch.float64)
    once = space.project(0, keys)
    torch.testing.assert_close(space.project(0, once), once)
    torch.testing.assert_close(((keys - once) * once).sum(1), torch.zeros(7, dtype=torch.float64))
    gram = space.basis[0].T @ space.basis[0]
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64))
    assert space.project(0, keys.bfloat16()).dtype is torch.bfloat16


def test_tau_is_an_absolute_threshold_on_the_mean() -> None:
    moments = with_eigenvalues(1.0, 0.03, 0.019, 0.0)
    assert null_space(moments, tau=0.02).ranks == {0: 2}
    assert null_space(moments, tau=0.01).ranks == {0: 3}
    assert null_space(moments, tau=2.0).ranks == {0: 0}
    doubled = Moments(0, 2 * moments.second, 2 * moments.tokens)
    assert null_space(doubled, tau=0.02).ranks == {0: 2}
    torch.testing.assert_close(
        null_space(moments, tau=0.02).project(0, torch.ones(1, 4)), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    )


def test_without_a_rule_a_share_of_the_energy_is_protected() -> None:
    moments = with_eigenvalues(0.8, 0.07, 0.06, 0.05, 0.02)
    assert null_space(moments).ranks == null_space(moments, energy=0.9).ranks == {0: 3}
    assert null_space(moments).rule == "energy 0.9"


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.5, 1), (0.75, 1), (0.76, 2), (0.9375, 2), (0.94, 3), (1.0, 3)]
)
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_energy_keeps_the_fewest_directions_that_hold_the_share(
    energy: float, rank: int, scale: float
) -> None:
    moments = with_eigenvalues(0.0, 0.0625 * scale, 0.1875 * scale, 0.75 * scale)
    assert null_space(moments, energy=energy).ranks == {0: rank}


def test_an_expert_whose_keys_are_zero_is_free() -> None:
    assert null_space(with_eigenvalues(0.0, 0.0), energy=0.99).ranks == {0: 0}


def test_rare_experts_are_reported_and_follow_the_policy() -> None:
    moments = moments_of(preserved_keys(4, 100, 0), preserved_keys(4, 63, 1), torch.zeros(0, D_KEY))
    keys = torch.randn(5, D_KEY)
    protected = null_space(moments, energy=0.99)
    assert protected.unseen == (1, 2)
    for expert in protected.unseen:
        assert not protected.project(expert, keys).any()
    assert protected.project(0, keys).any()
    edited = null_space(moments, energy=0.99, unseen="edit")
    assert edited.unseen == (1, 2)
    for expert in edited.unseen:
        torch.testing.assert_close(edited.project(expert, keys), keys)
    with pytest.raises(
        StatisticsError, match=r"layer 5: fewer than 64 tokens reached experts 1 \(63\), 2 \(0\)"
    ):
        null_space(moments, energy=0.99, unseen="error")
    assert null_space(moments, energy=0.99, min_tokens=63).unseen == (2,)
    assert null_space(moments_of(preserved_keys(4, 100, 0)), unseen="error").unseen == ()


def test_the_summary_says_what_was_protected() -> None:
    moments = moments_of(preserved_keys(4, 100, 0), torch.zeros(3, D_KEY))
    assert null_space(moments, energy=0.999999).summary() == {
        "layer": 5,
        "rule": "energy 0.999999",
        "width": D_KEY,
        "protected": round((100 * 4 + 3 * D_KEY) / (103 * D_KEY), 4),
        "rank_median": D_KEY,
        "rank_min": 4,
        "rank_max": D_KEY,
        "tokens_min": 3,
        "unseen": [1],
    }


def test_a_moment_that_is_not_finite_is_refused() -> None:
    moments = with_eigenvalues(1.0, float("nan"))
    with pytest.raises(StatisticsError, match=r"layer 0, expert 0: .* not finite"):
        null_space(moments)


def test_a_failed_eigendecomposition_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(StatisticsError, match=r"expert 0: .* failed to converge"):
        null_space(with_eigenvalues(1.0, 0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"tau": 0.1, "energy": 0.9},
        {"tau": -1.0},
        {"tau": float("nan")},
        {"energy": 0.0},
        {"energy": 1.1},
        {"unseen": "ignore"},
        {"min_tokens": 0},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        null_space(with_eigenvalues(1.0, 0.5), **options)  # type: ignore[arg-type]
