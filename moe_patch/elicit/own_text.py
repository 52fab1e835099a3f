"""The base's own text: preserved text where none is given, as much of it as its experts need, and no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import torch

from moe_patch.base.decoding import end_tokens
from moe_patch.base.model import Base
from moe_patch.base.occupied import find_occupant
from moe_patch.base.statistics import collect_moments, remember_moments
from moe_patch.data.corpus import Corpus
from moe_patch.elicit.growing import ENERGY, NAME, SETTLED, GrowingText, Growth
from moe_patch.elicit.writing import TEMPERATURES, Wrote, write_exchanges, write_texts
from moe_patch.errors import StatisticsError
from moe_patch.io import cache
from moe_patch.patch.fingerprint import TEMPLATE
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import DEFAULT_MIN_TOKENS

__all__ = ["NAME", "Growth", "OwnText", "own_prose", "own_text"]

MOST_TOKENS = 131_072

FIRST_PORTION = 64
"""Texts of the first portion."""

TEXT_TOKENS = 128
"""Tokens of a text."""

_SHORT = 32  # tokens of a text of `own_prose`
_CACHE_LIMIT = 2**28  # bytes of texts

Progress = Callable[[int, int], None]
"""Called as progress(tokens so far, most tokens)."""


@dataclass(frozen=True, slots=True, eq=False)
class OwnText:
    """A base's own text, and the moments of the keys that it sends to the experts."""

    corpus: Corpus
    prose: tuple[str, ...]  # those of its texts that people could have written, without a chat template
    moments: dict[int, Moments]
    growth: Growth


def own_text(
    base: Base,
    layers: Collection[int],
    *,
    most: int = MOST_TOKENS,
    least: int = DEFAULT_MIN_TOKENS,
    use_cache: bool = True,
    progress: Progress | None = None,
) -> OwnText:
    """Text that the base writes itself, until the used directions of the experts of `layers` settle.

    Args:
        base: the model, without patches.
        layers: decoder indices of MoE layers.
        most: tokens after which the text ends, settled or not. It may become a quarter longer for experts
            that it hardly reaches.
        least: tokens that should reach every expert. More is written for those that fewer reach.
        use_cache: whether to read and write the cache.
        progress: called while the base writes; not called if the text is cached.

    Raises:
        ModelError: a layer is dense or out of range.
        StatisticsError: the base writes nothing but loops, or has a patch on.
        NumericalError: a moment or a logit is not finite.
    """
    _check_bare(base)
    asked = {"layers": sorted(layers), "most": most, "least": least, "energy": ENERGY, "settled": SETTLED}
    address = _address(base) | asked
    stored = _load(address) if use_cache else None
    if stored is not None:
        corpus = Corpus(NAME, tuple(stored["texts"]))
        moments = collect_moments(base, corpus, layers)
        return OwnText(corpus, tuple(stored["prose"]), moments, Growth(**stored["growth"]))
    text = _grow(base, layers, most, least, use_cache, None if progress is None else _Counter(progress, most))
    corpus = Corpus(NAME, tuple(text.texts))
    prose = tuple(one for one, is_prose in text.texts.items() if is_prose)
    if use_cache:
        _store(address, {"texts": corpus.texts, "prose": prose, "growth": asdict(text.growth)})
        remember_moments(base, corpus, text.moments)
    return OwnText(corpus, prose, text.moments, text.growth)


def own_prose(
    base: Base, count: int, *, use_cache: bool = True, progress: Progress | None = None
) -> tuple[str, ...]:
    """Some short texts that the base writes itself, without a chat template; at most `count`, from the cache.

    Args:
        base: the model, without patches. It may be dense.
        count: how many texts are begun.
        use_cache: whether to read and write the cache.
        progress: called while the base writes.

    Raises:
        StatisticsError: the base writes nothing but loops, or has a patch on.
        NumericalError: a logit is not finite.
    """
    _check_bare(base)
    address = _address(base) | {"prose": count, "length": _SHORT}
    found = _load(address) if use_cache else None
    if found is None:
        wrote = None if progress is None else _Counter(progress, count * _SHORT)
        found = {"texts": write_texts(base, count, 0, length=_SHORT, wrote=wrote)}
        if use_cache:
            _store(address, found)
    return tuple(found["texts"]) or _nothing(base)


def _grow(
    base: Base, layers: Collection[int], most: int, least: int, use_cache: bool, wrote: Wrote | None
) -> GrowingText:
    text = GrowingText(base, layers, most)
    first = min(FIRST_PORTION, 1 + most // (4 * TEXT_TOKENS))  # so that there are several portions
    for portion in _portions(base, first, use_cache, wrote):
        if not text.add(portion) or text.settled or text.full:  # a base that repeats itself shows nothing new
            break
    if not text.texts:
        _nothing(base)
    text.seek(least, wrote)
    return text


def _portions(base: Base, first: int, use_cache: bool, wrote: Wrote | None) -> Iterator[dict[str, bool]]:
    """Texts, with whether each is prose: `first` are begun, then always as many as before altogether."""
    number, begun, size = 0, 0, first
    while True:
        address = _address(base) | {"portion": number, "size": size, "length": TEXT_TOKENS}
        found = _load(address) if use_cache else None
        if found is None:
            exchanges = write_exchanges(base, size // 2, 2 * number + 1, length=TEXT_TOKENS, wrote=wrote)
            prose = write_texts(base, size - len(exchanges), 2 * number, length=TEXT_TOKENS, wrote=wrote)
            found = {"prose": prose, "exchanges": exchanges}
            if use_cache:
                _store(address, found)
        yield dict.fromkeys(found["prose"], True) | dict.fromkeys(found["exchanges"], False)
        number, begun = number + 1, begun + size
        size = begun


def _nothing(base: Base) -> NoReturn:
    raise StatisticsError(
        f"{base.name} writes nothing but loops by itself, so there is no text to preserve: give --corpus"
    )


def _check_bare(base: Base) -> None:
    if state := find_occupant(base):  # it would write other text, which must not be cached as the base's
        raise StatisticsError(f"{state}: remove it, then let the base write")


class _Counter:
    """Sums up what was written and reports it."""

    def __init__(self, progress: Progress, most: int) -> None:
        self._progress, self._most, self._written = progress, most, 0

    def __call__(self, tokens: int) -> None:
        self._written = min(self._written + tokens, self._most)
        self._progress(self._written, self._most)


def _address(base: Base) -> dict[str, Any]:
    """All that a portion depends on, but its number and size."""
    identity = base.fingerprint([])  # with a patch on, still that of the base
    return {
        "version": 4,
        "base": identity.address(),
        "template": identity.tokens.get(TEMPLATE),
        "ends": sorted(end_tokens(base)),
        "dtype": str(base.model.dtype),
        "temperatures": TEMPERATURES,
    }


def _load(address: Mapping[str, Any]) -> dict[str, Any] | None:
    tensors = cache.load_tensors("own_text", address)
    if tensors is None:
        return None
    found: dict[str, Any] = json.loads(bytes(tensors["json"].tolist()))
    return found


def _store(address: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    encoded = torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8)
    cache.store_tensors("own_text", address, {"json": encoded}, limit=_CACHE_LIMIT)
