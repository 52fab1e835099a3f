"""The Tucker factors of a base's layers, kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.errors import ModelError
from moe_patch.io import cache
from moe_patch.solve.tucker import (
    MODES,
    Decomposition,
    Factors,
    Ranks,
    Spectrum,
    WeightTensor,
    leading_spectrum,
    mode_grams,
    refine_factors,
)
from moe_patch.solve.whitening import Root, Whitening


def decompose_layer(base: Base, layer: int, whitening: Whitening, *, use_cache: bool = True) -> Decomposition:
    """The higher-order SVD of a layer's down projections, from the cache if it is there.

    Raises:
        ModelError: the layer is dense or out of range, has a patch merged, or its weights are not finite.
    """
    address = _address(base, layer, whitening)
    stored = cache.load_tensors("tucker", address) if use_cache else None
    if stored is not None:
        return Decomposition(
            *(Spectrum(stored[f"{mode}.values"], stored[f"{mode}.vectors"]) for mode in MODES)
        )
    with _base_weights(base.layer(layer)) as stacked:
        grams = mode_grams(WeightTensor(stacked, whitening))
    if not all(bool(torch.isfinite(gram).all()) for gram in grams):
        raise ModelError(f"{base.layer(layer).name}: the down projections are not finite")
    spectra = [leading_spectrum(gram) for gram in grams]
    if use_cache:
        cache.store_tensors("tucker", address, _named(spectra))
    return Decomposition(*spectra)


@contextmanager
def _base_weights(layer: MoELayer) -> Iterator[Tensor]:
    """The down projections; ModelError if a patch is merged, because cache entries are for the bare base."""
    if layer.originals:
        raise ModelError(f"{layer.name} has a patch merged: take it off before a build with MoTE")
    with layer.weights() as stacked:
        yield stacked


def _named(spectra: list[Spectrum]) -> dict[str, Tensor]:
    named = {f"{mode}.values": spectrum.values for mode, spectrum in zip(MODES, spectra, strict=True)}
    return named | {
        f"{mode}.vectors": spectrum.vectors for mode, spectrum in zip(MODES, spectra, strict=True)
    }


def tucker_factors(
    base: Base, layer: int, ranks: Ranks, whitening: Whitening, *, sweeps: int = 0, use_cache: bool = True
) -> Factors:
    """The factors of a layer at given ranks, refined by `sweeps` of HOOI; both steps are cached.

    Raises:
        ModelError: the layer is dense or out of range, has a patch merged, or its weights are not finite.
    """
    factors = decompose_layer(base, layer, whitening, use_cache=use_cache).factors(ranks)
    if not sweeps:
        return factors
    address = _address(base, layer, whitening) | {"ranks": list(ranks), "sweeps": sweeps}
    stored = cache.load_tensors("tucker", address) if use_cache else None
    if stored is not None:
        return Factors(**{mode: stored[mode] for mode in MODES})
    with _base_weights(base.layer(layer)) as stacked:
        factors = refine_factors(WeightTensor(stacked, whitening), factors, sweeps)
    if use_cache:
        cache.store_tensors("tucker", address, {mode: getattr(factors, mode).contiguous() for mode in MODES})
    return factors


def _address(base: Base, layer: int, whitening: Whitening) -> dict[str, Any]:
    """Everything that a layer's decomposition depends on."""
    return {
        "version": 2,
        "experts": base.fingerprint([layer]).experts[layer],
        "layer": layer,
        "dtype": str(base.layer(layer).dtype),
        "whitening": {"in": _digest(whitening.inner), "out": _digest(whitening.out)},
    }


def _digest(root: Root | None) -> str | None:
    """The digest of the second moment that a mode is whitened by; None if it is not whitened."""
    if root is None:
        return None
    return hashlib.sha256(root.root.float().numpy().tobytes()).hexdigest()
