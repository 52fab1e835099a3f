"""Second moments of the keys that preserved text sends to each expert.

One forward pass runs over the text, up to the last requested layer. No key is stored. Each expert sums k k^T,
without gates, over the tokens that the router sent to it, and counts these tokens. So the mean does not
depend on how the text is batched. Padding never counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from moe_patch.base.capture import observe_experts
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.base.occupied import find_occupant
from moe_patch.data.corpus import Corpus, padded_batches
from moe_patch.data.prompts import pad_token
from moe_patch.errors import StatisticsError
from moe_patch.io import cache
from moe_patch.solve.finite import check_finite
from moe_patch.solve.moments import Moments

DEFAULT_LENGTH = 512
DEFAULT_BATCH_TOKENS = 8192

Progress = Callable[[int, int], None]
"""Called as progress(tokens done, tokens in total)."""


class _Accumulator:
    """An observer that sums k k^T and counts tokens."""

    def __init__(self, layer: MoELayer) -> None:
        shape = (layer.num_experts, layer.d_key, layer.d_key)
        self.second = torch.zeros(shape, device=layer.device)  # (E, d_k, d_k) fp32
        self.tokens = [0] * layer.num_experts

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        key = key.float()  # (n, d_k)
        self.second[expert].addmm_(key.T, key)
        self.tokens[expert] += len(key)

    def moments(self, layer: int) -> Moments:
        """What was summed, once it is known to be finite."""
        squares = self.second.diagonal(dim1=1, dim2=2)  # (E, d_k); all of `second` is finite if these are
        check_finite(
            squares, "the second moments of keys", lambda expert: f"at layer {layer}, expert {expert},"
        )
        return Moments(layer, self.second.cpu(), torch.tensor(self.tokens))


def collect_moments(
    base: Base,
    corpus: Corpus,
    layers: Iterable[int],
    *,
    max_tokens: int | None = None,
    length: int = DEFAULT_LENGTH,
    batch_tokens: int = DEFAULT_BATCH_TOKENS,
    use_cache: bool = True,
    progress: Progress | None = None,
) -> dict[int, Moments]:
    """The second moments of every expert of `layers` over the corpus, taken from the cache if they are there.

    Args:
        base: the model.
        corpus: preserved text.
        layers: decoder indices of MoE layers.
        max_tokens: use only this many tokens from the start of the corpus; None uses all.
        length: cut longer texts into sequences of this many tokens.
        batch_tokens: tokens in one forward pass, padding included.
        use_cache: whether to read and write the cache.
        progress: called after each batch; not called if everything is cached.

    Raises:
        ModelError: a layer is dense or out of range.
        StatisticsError: the corpus gives no tokens, or the model has a patch on or is being observed.
        NumericalError: a moment is not finite.
    """
    wanted = sorted(set(layers))
    addresses = _addresses(base, corpus, wanted, max_tokens, length) if use_cache else {}
    stored = {layer: _cached(layer, address) for layer, address in addresses.items()}
    found = {layer: moments for layer, moments in stored.items() if moments is not None}
    if missing := [layer for layer in wanted if layer not in found]:
        if state := find_occupant(base):  # its keys differ and must not be cached as those of the base
            raise StatisticsError(f"{state}: remove it, then collect statistics")
        sequences = list(corpus.sequences(base.reader, max_tokens=max_tokens, length=length))
        found |= _collect(base, sequences, missing, batch_tokens, progress)
        for layer in missing if use_cache else ():
            _store(addresses[layer], found[layer])
    return {layer: found[layer] for layer in wanted}


def remember_moments(
    base: Base, corpus: Corpus, moments: Mapping[int, Moments], *, length: int = DEFAULT_LENGTH
) -> None:
    """Put moments into the cache that were collected over a corpus part by part, and then added."""
    addresses = _addresses(base, corpus, moments, None, length)
    for layer, address in addresses.items():
        _store(address, moments[layer])


def _collect(
    base: Base, sequences: list[list[int]], layers: list[int], batch_tokens: int, progress: Progress | None
) -> dict[int, Moments]:
    total = sum(map(len, sequences))
    if not total:
        raise StatisticsError(
            "the corpus gives no tokens: allow more tokens, or give a corpus with text in it"
        )
    accumulators = {layer: _Accumulator(base.layer(layer)) for layer in layers}
    done = 0
    with observe_experts(base, accumulators) as watch:
        for ids, mask in padded_batches(sequences, batch_tokens, pad_token(base.tokenizer)):
            watch.forward(ids, mask)
            done += int(mask.sum())
            if progress is not None:
                progress(done, total)
    return {layer: accumulator.moments(layer) for layer, accumulator in accumulators.items()}


def _addresses(
    base: Base, corpus: Corpus, layers: Iterable[int], max_tokens: int | None, length: int
) -> dict[int, dict[str, Any]]:
    """Everything that each layer's moments depend on. The first ids stand for how text is made tokens."""
    identity = base.fingerprint([])
    first = base.reader.sequences(list(corpus.texts[:16]), length)
    shared = {"corpus": corpus.hash, "first_ids": first, "max_tokens": max_tokens, "length": length}
    return {
        layer: {
            "version": 2,
            "base": identity.address(layer),
            "layer": layer,
            "dtype": str(base.layer(layer).dtype),
            **shared,
        }
        for layer in layers
    }


def _store(address: dict[str, Any], moments: Moments) -> None:
    cache.store_tensors("moments", address, {"second": moments.second, "tokens": moments.tokens})


def _cached(layer: int, address: dict[str, Any]) -> Moments | None:
    tensors = cache.load_tensors("moments", address)
    return None if tensors is None else Moments(layer, tensors["second"], tensors["tokens"])
