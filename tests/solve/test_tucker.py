"""Factors against singular value decompositions of the unfoldings; their ranks, cache and whitened bases."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.errors import ConfigError, ModelError
from moe_patch.io import cache
from moe_patch.methods.mote import factors
from moe_patch.methods.mote.factors import decompose_layer, tucker_factors
from moe_patch.solve import tucker
from moe_patch.solve.tucker import (
    MODES,
    Decomposition,
    Factors,
    Rank,
    Spectrum,
    WeightTensor,
    compress_tensor,
    refine_factors,
)
from moe_patch.solve.whitening import NOT_WHITENED, Whitening, square_root
from tests.margins import at_least
from tests.tiny import tiny_base, tiny_patch


def low_rank_tensor(noise: float, seed: int = 0) -> Tensor:
    """(6, 14, 10) of multilinear rank (2, 3, 4), and noise."""
    generator = torch.Generator().manual_seed(seed)
    core = torch.randn(2, 3, 4, generator=generator)
    factors = (torch.randn(size, rank, generator=generator) for size, rank in ((6, 2), (14, 3), (10, 4)))
    tensor = torch.einsum("abc,ia,jb,kc->ijk", core, *factors)
    return tensor + noise * torch.randn(6, 14, 10, generator=generator)


def random_whitening(kind: str, seed: int = 1) -> Whitening:
    generator = torch.Generator().manual_seed(seed)
    inner, out = (torch.randn(n, n, generator=generator, dtype=torch.float64) for n in (10, 14))
    return Whitening(
        inner=square_root(inner @ inner.T, 1e-3) if kind in {"in", "both"} else None,
        out=square_root(out @ out.T, 1e-3) if kind in {"out", "both"} else None,
    )


def whitened(tensor: Tensor, whitening: Whitening) -> Tensor:
    """The whole tensor in whitened bases, fp64."""
    tensor = tensor.double()
    if whitening.inner is not None:
        tensor = torch.einsum("emk,kl->eml", tensor, whitening.inner.root)
    if whitening.out is not None:
        tensor = torch.einsum("nm,emk->enk", whitening.out.inverse, tensor)
    return tensor


def unfolding(tensor: Tensor, mode: str) -> Tensor:
    return tensor.double().movedim(MODES.index(mode), 0).flatten(1)


def factors_of(tensor: WeightTensor, ranks: tuple[int, int, int]) -> Factors:
    spectra = map(tucker.leading_spectrum, tucker.mode_grams(tensor))
    return tucker.Decomposition(*spectra).factors(ranks)


def kept(tensor: WeightTensor, factors: Factors) -> float:
    """Share of the squared norm that the core holds."""
    return float(compress_tensor(tensor, factors).square().sum() / tensor.stacked.square().sum())


@pytest.mark.parametrize("slab_bytes", [1, 1000, 2**20])
@pytest.mark.parametrize("kind", ["none", "in", "out", "both"])
def test_spectra_equal_singular_values_of_the_whitened_unfoldings(
    kind: str, slab_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tucker, "SLAB_BYTES", slab_bytes)
    tensor, whitening = low_rank_tensor(noise=0.5), random_whitening(kind)
    for mode, gram in zip(MODES, tucker.mode_grams(WeightTensor(tensor, whitening)), strict=True):
        unfolded = unfolding(whitened(tensor, whitening), mode)
        values = torch.linalg.svdvals(unfolded).square()
        spectrum, vectors = tucker.leading_spectrum(gram), tucker.leading_spectrum(gram).vectors
        rounding = 1e-5 * float(values[0])  # products are fp32
        torch.testing.assert_close(spectrum.values, values[: len(gram)], rtol=0, atol=rounding)
        rebuilt = (vectors * spectrum.values) @ vectors.T
        torch.testing.assert_close(rebuilt, unfolded @ unfolded.T, rtol=0, atol=rounding)
        assert (vectors.gather(0, vectors.abs().argmax(0)[None]) > 0).all()


def test_factors_of_the_true_ranks_hold_a_low_rank_tensor_whole() -> None:
    tensor = WeightTensor(low_rank_tensor(noise=0.0))
    factors = factors_of(tensor, (2, 3, 4))
    core = compress_tensor(tensor, factors).double()
    rebuilt = torch.einsum("abc,ia,jb,kc->ijk", core, factors.expert, factors.out, factors.inner)
    torch.testing.assert_close(rebuilt, tensor.stacked.double(), rtol=1e-4, atol=1e-4)
    assert kept(tensor, factors_of(tensor, (1, 3, 4))) < 0.999


@pytest.mark.parametrize("skip", MODES)
def test_compressing_all_modes_but_one_equals_the_whole_product(
    skip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tucker, "SLAB_BYTES", 1000)
    tensor = WeightTensor(low_rank_tensor(noise=0.5), random_whitening("both"))
    factors = factors_of(tensor, (2, 3, 4))
    expected = whitened(tensor.stacked, tensor.whitening)
    for number, mode in enumerate(MODES):
        if mode != skip:
            expected = torch.tensordot(expected, getattr(factors, mode), dims=([number], [0])).movedim(
                -1, number
            )
    torch.testing.assert_close(
        compress_tensor(tensor, factors, skip=skip).double(), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.quality
def test_sweeps_keep_more_and_never_less() -> None:
    tensor = WeightTensor(torch.randn(6, 14, 10, generator=torch.Generator().manual_seed(3)))
    start = factors_of(tensor, (2, 3, 4))
    energies = [kept(tensor, refine_factors(tensor, start, sweeps)) for sweeps in range(6)]
    assert all(after >= before - 1e-6 for before, after in pairwise(energies))
    at_least("energy that sweeps gain", energies[-1] - energies[0], 1e-3)
    refined = refine_factors(tensor, start, 2)
    assert refined.ranks == (2, 3, 4)
    torch.testing.assert_close(refined.out.T @ refined.out, torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [((2, 3, 4), (2, 3, 4)), ((0.5, 0.5, 1.0), (3, 7, 10)), ((1, 0.01, 0.91), (1, 1, 10))],
)
def test_ranks_are_directions_or_shares(ranks: tuple[Rank, Rank, Rank], expected: tuple[int, ...]) -> None:
    spectra = map(tucker.leading_spectrum, tucker.mode_grams(WeightTensor(low_rank_tensor(0.1))))
    assert tucker.Decomposition(*spectra).ranks(ranks, None) == expected


@pytest.mark.parametrize("width", [1, 2, 7, 24, 60, 10_000])
def test_ranks_within_a_width_share_the_most_energy_that_it_allows(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    spectra = [
        Spectrum(torch.rand(size, generator=generator).double().sort(descending=True).values, torch.eye(size))
        for size in (6, 9, 11)
    ]
    found = Decomposition(*spectra)
    ranks = found.ranks_within(width)
    assert ranks[0] * ranks[2] <= width
    tried = [energy / 2000 for energy in range(1, 2000)]
    allowed = [e for e in tried if spectra[0].rank_for(e) * spectra[2].rank_for(e) <= width]
    if width >= 66:
        assert ranks == (6, 9, 11)
    elif allowed:
        assert ranks[0] * ranks[2] >= max(spectra[0].rank_for(e) * spectra[2].rank_for(e) for e in allowed)
        assert ranks[1] >= max(spectra[1].rank_for(e) for e in allowed)
    with pytest.raises(ConfigError, match="a core of width 0"):
        found.ranks_within(0)


def test_ranks_by_energy_are_the_smallest_that_hold_it() -> None:
    tensor = WeightTensor(low_rank_tensor(noise=0.3))
    found = tucker.Decomposition(*map(tucker.leading_spectrum, tucker.mode_grams(tensor)))
    ranks = found.ranks(None, 0.9)
    for mode, rank in zip(found.modes, ranks, strict=True):
        assert mode.energy(rank) >= 0.9
        assert rank == 1 or mode.energy(rank - 1) < 0.9
    assert found.ranks(None, 1.0) == (6, 14, 10)


@pytest.mark.parametrize(
    ("ranks", "energy", "problem"),
    [
        (None, None, "either ranks or an energy"),
        ((1, 1, 1), 0.5, "either ranks or an energy"),
        ((7, 1, 1), None, "rank 7 of mode 'expert'"),
        ((1, 0, 1), None, "rank 0 of mode 'out'"),
        ((1, 1, 1.5), None, r"rank 1\.5 of mode 'inner'"),
        (None, 1.5, "energy is 1.5"),
    ],
)
def test_impossible_ranks_are_refused(
    ranks: tuple[Rank, Rank, Rank] | None, energy: float | None, problem: str
) -> None:
    spectra = map(tucker.leading_spectrum, tucker.mode_grams(WeightTensor(low_rank_tensor(0.1))))
    with pytest.raises(ConfigError, match=problem):
        tucker.Decomposition(*spectra).ranks(ranks, energy)


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss"])
def test_a_layer_is_decomposed_as_out_in_whatever_its_layout(model_type: str) -> None:
    base = tiny_base(model_type)
    layer = base.layer(1)
    stacked = torch.stack([layer.down(expert) for expert in range(layer.num_experts)])
    found = decompose_layer(base, 1, NOT_WHITENED)
    for mode, spectrum in zip(MODES, found.modes, strict=True):
        values = torch.linalg.svdvals(unfolding(stacked, mode))
        torch.testing.assert_close(spectrum.values, values.square(), rtol=1e-3, atol=1e-4)


def test_decompositions_come_from_the_cache_only_for_the_same_weights_and_whitening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, other = tiny_base("qwen3_moe"), tiny_base("qwen3_moe", seed=1)
    first = decompose_layer(base, 0, NOT_WHITENED)
    whitening = Whitening(inner=square_root(torch.eye(24, dtype=torch.float64), 3.0))

    def fail(*_: object) -> None:
        raise AssertionError("decomposed again")

    with monkeypatch.context() as patched:
        patched.setattr(factors, "mode_grams", fail)
        again = decompose_layer(base, 0, NOT_WHITENED)
        for mode, stored in zip(first.modes, again.modes, strict=True):
            assert torch.equal(mode.vectors, stored.vectors)
            assert torch.equal(mode.values, stored.values)
        for different in ((base, 1, NOT_WHITENED), (other, 0, NOT_WHITENED), (base, 0, whitening)):
            with pytest.raises(AssertionError, match="decomposed again"):
                decompose_layer(*different)
    torch.testing.assert_close(decompose_layer(base, 0, whitening).inner.values, 4.0 * first.inner.values)


def test_refined_factors_are_cached_by_ranks_and_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    refined = tucker_factors(base, 0, (2, 3, 4), NOT_WHITENED, sweeps=2)
    monkeypatch.setattr(factors, "refine_factors", lambda *_: pytest.fail("refined again"))
    again = tucker_factors(base, 0, (2, 3, 4), NOT_WHITENED, sweeps=2)
    assert all(torch.equal(getattr(refined, mode), getattr(again, mode)) for mode in MODES)
    with pytest.raises(pytest.fail.Exception):
        tucker_factors(base, 0, (2, 3, 5), NOT_WHITENED, sweeps=2)


def test_a_merged_patch_is_refused_and_leaves_nothing_in_the_cache() -> None:
    base = tiny_base("qwen3_moe")
    with apply(base, tiny_patch(base, [0])), pytest.raises(ModelError, match="has a patch merged"):
        decompose_layer(base, 0, NOT_WHITENED)
    assert not list(Path(cache.cache_folder()).rglob("*.safetensors"))
    decompose_layer(base, 0, NOT_WHITENED)


def test_weights_that_are_not_finite_are_an_error() -> None:
    base = tiny_base("qwen3_moe")
    with torch.no_grad():
        base.layer(0).down(3)[1, 1] = float("nan")
    with pytest.raises(ModelError, match=r"layers\.0.*not finite"):
        decompose_layer(base, 0, NOT_WHITENED)
