"""The Tucker decomposition of one layer's down projections (E, d_m, d_k), core x_1 U_e x_2 U_out x_3 U_in.

The factors are those of the higher-order SVD (De Lathauwer et al., 2000): for each mode, the leading
eigenvectors of that mode's Gram matrix. The Gram matrices are summed over slabs and single experts, so
neither an unfolding nor a copy of the tensor is ever made. Sweeps of higher-order orthogonal iteration (HOOI)
refine the factors for given ranks. The tensor may be expressed in whitened bases; see `whitening`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_patch.errors import ConfigError
from moe_patch.solve.whitening import NOT_WHITENED, Root, Whitening

Rank = int | float
"""A rank: an int is a number of directions, a float a share of the mode's dimension."""

Ranks = tuple[int, int, int]

MODES = ("expert", "out", "inner")
SLAB_BYTES = 128 * 2**20
_BELOW = 1 - 1e-12  # so that rounding asks for no direction more than a share of energy needs


@dataclass(frozen=True, slots=True, eq=False)
class WeightTensor:
    """A layer's down projections in whitened bases, converted to fp32 piece by piece."""

    stacked: Tensor  # (E, d_m, d_k), a view in the base's dtype
    whitening: Whitening = NOT_WHITENED

    def expert(self, index: int) -> Tensor:
        """The down projection (d_m, d_k) of one expert, in fp32."""
        weight = self.stacked[index].float()
        return _right(_left(weight, self.whitening.out), self.whitening.inner)

    def slabs(self) -> Iterator[tuple[slice, Tensor]]:
        """Ranges of c output dimensions, in order, each with its rows (E, c, d_k) of all experts."""
        experts, d_model, d_key = self.stacked.shape
        size = max(1, SLAB_BYTES // (4 * experts * d_key))
        for start in range(0, d_model, size):
            rows = slice(start, min(start + size, d_model))
            yield rows, _right(self._rows(rows), self.whitening.inner)

    def _rows(self, rows: slice) -> Tensor:
        if self.whitening.out is None:
            return self.stacked[:, rows].float()
        mix = self.whitening.out.inverse[rows].to(self.stacked.device, torch.float32)  # (c, d_m)
        return torch.stack([mix @ weight.float() for weight in self.stacked])


def _left(weight: Tensor, root: Root | None) -> Tensor:
    return weight if root is None else root.inverse.to(weight) @ weight


def _right(weight: Tensor, root: Root | None) -> Tensor:
    return weight if root is None else weight @ root.root.to(weight)


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Factors of given ranks with orthonormal columns, fp64 on the CPU, in the tensor's (whitened) bases."""

    expert: Tensor  # (E, r_e)
    out: Tensor  # (d_m, r_out)
    inner: Tensor  # (d_k, r_in)

    @property
    def ranks(self) -> Ranks:
        """(r_e, r_out, r_in)."""
        return self.expert.shape[1], self.out.shape[1], self.inner.shape[1]


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The eigenvalues and eigenvectors of one mode's Gram matrix, largest eigenvalue first."""

    values: Tensor  # (d,) fp64
    vectors: Tensor  # (d, d) fp64, orthonormal columns, each with its largest entry positive

    def rank_for(self, energy: float) -> int:
        """The smallest number of directions that holds this share of the tensor's squared norm."""
        held = self.values.clamp_min(0.0).cumsum(0)
        return min(int((held < energy * held[-1]).sum()) + 1, len(held))

    def energy(self, rank: int) -> float:
        """The share of the tensor's squared norm that the first `rank` directions hold."""
        values = self.values.clamp_min(0.0)
        return float(values[:rank].sum() / values.sum())


@dataclass(frozen=True, slots=True, eq=False)
class Decomposition:
    """The higher-order SVD at all ranks."""

    expert: Spectrum
    out: Spectrum
    inner: Spectrum

    @property
    def modes(self) -> tuple[Spectrum, Spectrum, Spectrum]:
        """The spectra in the order of the tensor's dimensions."""
        return self.expert, self.out, self.inner

    def factors(self, ranks: Ranks) -> Factors:
        """The leading directions of each mode.

        Raises:
            ConfigError: a rank is below 1 or above the mode's dimension.
        """
        self.ranks(ranks, None)
        return Factors(*(mode.vectors[:, :rank] for mode, rank in zip(self.modes, ranks, strict=True)))

    def ranks_within(self, width: int) -> Ranks:
        """The largest ranks (r_e, r_out, r_in) with one share of energy in each and r_e r_in <= `width`.

        Raises:
            ConfigError: the width is below 1.
        """
        if width < 1:
            raise ConfigError(f"a core of width {width}: expected at least 1")
        modes = [mode.values.clamp_min(0.0).cumsum(0) for mode in (self.expert, self.inner)]
        shares = torch.cat([held / held[-1] for held in modes]).unique()  # at which a rank grows, ascending
        low, high = 0, len(shares)  # shares[:low] keep within the width
        while low < high:
            middle = (low + high) // 2
            energy = float(shares[middle]) * _BELOW
            within = self.expert.rank_for(energy) * self.inner.rank_for(energy) <= width
            low, high = (middle + 1, high) if within else (low, middle)
        energy = float(shares[low - 1]) * _BELOW if low else 0.0
        expert, out, inner = (mode.rank_for(energy) for mode in self.modes)
        return expert, out, inner

    def ranks(self, ranks: tuple[Rank, Rank, Rank] | None, energy: float | None) -> Ranks:
        """Ranks (r_e, r_out, r_in) in directions, from one of two rules.

        Args:
            ranks: for each mode a number of directions (int) or a share of its dimension (float).
            energy: share of the squared norm that each mode should hold.

        Raises:
            ConfigError: neither or both are given, or a rank is out of range.
        """
        if (ranks is None) == (energy is None):
            raise ConfigError("expected either ranks or an energy: give exactly one of them")
        if energy is not None:
            if not 0.0 < energy <= 1.0:
                raise ConfigError(f"energy is {energy}: expected a share above 0 and at most 1")
            return tuple(mode.rank_for(energy) for mode in self.modes)  # type: ignore[return-value]
        assert ranks is not None
        sizes = (len(mode.values) for mode in self.modes)
        return tuple(map(_directions, MODES, ranks, sizes))  # type: ignore[return-value]


def _directions(mode: str, rank: Rank, size: int) -> int:
    directions = rank if isinstance(rank, int) else math.ceil(rank * size)
    if not 1 <= directions <= size:
        raise ConfigError(
            f"rank {rank} of mode {mode!r} is out of range: expected 1 to {size}, or a share above 0 and at "
            "most 1.0"
        )
    return directions


def mode_grams(tensor: WeightTensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Gram matrices (E, E), (d_m, d_m) and (d_k, d_k) of the tensor's three unfoldings, fp64 on the CPU.

    Products are taken in fp32 and summed in fp64. The memory beyond the weights is that of a few slabs and of
    the matrices twice.
    """
    sizes, device = tensor.stacked.shape, tensor.stacked.device
    expert, out, inner = (torch.zeros(n, n, dtype=torch.float64, device=device) for n in sizes)
    for _, slab in tensor.slabs():  # (E, c, d_k)
        flat, tall = slab.flatten(1), slab.flatten(0, 1)  # (E, c * d_k), (E * c, d_k)
        expert += flat @ flat.T
        inner += tall.T @ tall
    for index in range(sizes[0]):
        weight = tensor.expert(index)  # (d_m, d_k)
        out += weight @ weight.T
    return expert.cpu(), out.cpu(), inner.cpu()


def leading_spectrum(gram: Tensor) -> Spectrum:
    """The spectrum of a Gram matrix (d, d). The eigenvectors' signs do not depend on the eigensolver."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    largest = vectors.abs().argmax(0, keepdim=True)  # (1, d)
    return Spectrum(values, (vectors * vectors.gather(0, largest).sign()).contiguous())


def refine_factors(tensor: WeightTensor, factors: Factors, sweeps: int) -> Factors:
    """Factors of the same ranks after `sweeps` of higher-order orthogonal iteration over all modes in turn.

    The squared norm of the core, which is what the decomposition keeps, never decreases. The memory of a
    sweep beyond the weights is about three times the tensor compressed in two of its modes.
    """
    for _ in range(sweeps):
        for mode, rank in zip(MODES, factors.ranks, strict=True):
            compressed = compress_tensor(tensor, factors, skip=mode)
            unfolded = compressed.movedim(MODES.index(mode), 0).flatten(1)  # (d, product of the other ranks)
            gram = (unfolded @ unfolded.T).double().cpu()
            factors = replace(factors, **{mode: leading_spectrum(gram).vectors[:, :rank]})
    return factors


def compress_tensor(tensor: WeightTensor, factors: Factors, skip: str | None = None) -> Tensor:
    """The tensor in the coordinates of the factors; with `skip` None, this is the core.

    Args:
        tensor: the down projections.
        factors: of the same bases.
        skip: a mode of `MODES` that is left as it is.

    Returns:
        (E or r_e, d_m or r_out, d_k or r_in) fp32 on the tensor's device.
    """
    expert, out, inner = (
        None if mode == skip else getattr(factors, mode).to(tensor.stacked.device, torch.float32)
        for mode in MODES
    )
    slabs: list[Tensor] = []
    total: Tensor | None = None
    for rows, slab in tensor.slabs():  # (E, c, d_k)
        part = slab if inner is None else slab @ inner
        if expert is not None:
            part = torch.tensordot(expert.T, part, dims=1)  # (r_e, c, d_k or r_in)
        if out is None:
            slabs.append(part)
        else:
            mixed = out[rows].T @ part  # (., r_out, .)
            total = mixed if total is None else total.add_(mixed)
    return torch.cat(slabs, dim=1) if total is None else total
