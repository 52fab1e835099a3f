"""Gradients through passes that continue a recurrent state.

Layers with linear attention, a state space or a convolution read their state from the cache and write the
next one over it. Backward may need what they have read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionCacheLayerMixin


def saving_states(cache: Any) -> AbstractContextManager[object]:
    """Inside the block, what autograd saves of a cache's tensors are copies, which no layer overwrites.

    Args:
        cache: a cache of transformers that holds earlier tokens, or None.
    """
    storages = {_storage(tensor) for tensor in _tensors(cache)}
    if not storages:
        return nullcontext()
    return saved_tensors_hooks(
        lambda saved: saved.clone() if _storage(saved) in storages else saved, lambda saved: saved
    )


def _tensors(held: Any) -> Iterator[Tensor]:
    """The tensors of a cache: its layers hold them by themselves, in lists, or in dicts."""
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        yield from _each(held.values())
    elif isinstance(held, list | tuple):
        yield from _each(held)
    elif isinstance(held, Cache | CacheLayerMixin | LinearAttentionCacheLayerMixin):
        yield from _each(vars(held).values())


def _each(several: Iterable[Any]) -> Iterator[Tensor]:
    for one in several:
        yield from _tensors(one)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
