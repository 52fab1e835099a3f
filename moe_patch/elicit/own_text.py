"""The base's own text: preserved text where none is given, as much of it as its experts need.

The base writes in portions, each as long as all before. After each, the directions that hold most of the
keys' energy in the text so far are tried on the new portion, which they have not seen. While text is short
they hold less of it than of the text that they come from: they are still turning. When they hold nearly as
much, there is enough text.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import torch

from moe_patch.base.decoding import end_tokens
from moe_patch.base.model import Base
from moe_patch.base.occupied import find_occupant
from moe_patch.base.statistics import DEFAULT_LENGTH, collect_moments, remember_moments
from moe_patch.data.corpus import Corpus
from moe_patch.elicit.writing import TEMPERATURES, Wrote, write_exchanges, write_texts
from moe_patch.errors import StatisticsError
from moe_patch.io import cache
from moe_patch.patch.fingerprint import TEMPLATE
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import captured_energy

logger = logging.getLogger(__name__)

NAME = "the base's own text"
MOST_TOKENS = 131_072
ENERGY = 0.95
"""The share of the keys' energy in the directions that are watched. It is no option, so that builds with
different options share the text."""

SETTLED = 0.01
"""The text is long enough when new text leaves at most this share more of its energy out than text that the
directions come from."""

_FIRST_PORTION = 64  # texts
_LONG = 128  # tokens of a text
_SHORT = 32  # tokens of a text of `own_prose`
_EXPERTS_WATCHED = 16  # of a layer, those that are used most: an eigendecomposition of all would take minutes
_CACHE_LIMIT = 2**28  # bytes of texts

Progress = Callable[[int, int], None]
"""Called as progress(tokens so far, most tokens)."""


@dataclass(frozen=True, slots=True)
class Growth:
    """Where the text stopped growing, and why."""

    tokens: int
    left_out: float | None  # share of the last portion's energy outside of the directions, beyond 1 - ENERGY
    settled: bool  # whether that is at most SETTLED; else the text ended at the cap, or nothing new came


@dataclass(frozen=True, slots=True, eq=False)
class OwnText:
    """A base's own text, and the moments of the keys that it sends to the experts."""

    corpus: Corpus
    prose: tuple[str, ...]  # those of its texts that are not in a chat template
    moments: dict[int, Moments]
    growth: Growth


def own_text(
    base: Base,
    layers: Collection[int],
    *,
    most: int = MOST_TOKENS,
    use_cache: bool = True,
    progress: Progress | None = None,
) -> OwnText:
    """Text that the base writes itself, until the used directions of the experts of `layers` settle.

    Args:
        base: the model, without patches.
        layers: decoder indices of MoE layers.
        most: tokens after which the text ends, settled or not.
        use_cache: whether to read and write the cache.
        progress: called while the base writes; not called if the text is cached.

    Raises:
        ModelError: a layer is dense or out of range.
        StatisticsError: the base writes nothing but loops, or has a patch on.
        NumericalError: a moment or a logit is not finite.
    """
    _check_bare(base)
    address = _address(base) | {"layers": sorted(layers), "most": most, "energy": ENERGY, "settled": SETTLED}
    stored = _load(address) if use_cache else None
    if stored is not None:
        texts, prose, growth = stored["texts"], stored["prose"], Growth(**stored["growth"])
        corpus = Corpus(NAME, tuple(texts))
        return OwnText(corpus, tuple(prose), collect_moments(base, corpus, layers), growth)
    written = _grow(base, layers, most, progress, use_cache)
    if use_cache:
        found = {"texts": written.corpus.texts, "prose": written.prose, "growth": asdict(written.growth)}
        _store(address, found)
        remember_moments(base, written.corpus, written.moments)
    return written


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


class _Growing:
    """Text so far, with its moments in some layers."""

    def __init__(self, base: Base, layers: Collection[int], most: int) -> None:
        self.texts: dict[str, bool] = {}  # in order; whether each is prose
        self.moments: dict[int, Moments] = {}
        self.tokens = 0
        self.left_out: float | None = None
        self.full = False
        self._base, self._layers, self._most = base, layers, most

    @property
    def settled(self) -> bool:
        """Whether the used directions held nearly as much of the last portion as they should."""
        return self.left_out is not None and self.left_out <= SETTLED

    def add(self, portion: Mapping[str, bool]) -> int:
        """Add the texts that are new, as far as they fit. The number of their tokens."""
        unknown = {text: kind for text, kind in portion.items() if text not in self.texts}
        new = _within(self._base, unknown, self._most - self.tokens)
        self.full = len(new) < len(unknown)
        if not new:
            return 0
        fresh = collect_moments(self._base, Corpus(NAME, tuple(new)), self._layers, use_cache=False)
        if self.moments:
            self.left_out = max(shortfall(self.moments[layer], fresh[layer]) for layer in self._layers)
            fresh = {layer: self.moments[layer] + fresh[layer] for layer in self._layers}
        self.moments = fresh
        self.texts |= new
        added = _tokens(self._base, new)
        self.tokens += added
        return added

    def finished(self) -> OwnText:
        """The text as it is now."""
        prose = tuple(text for text, is_prose in self.texts.items() if is_prose)
        growth = Growth(self.tokens, self.left_out, self.settled)
        return OwnText(Corpus(NAME, tuple(self.texts)), prose, self.moments, growth)


def _grow(
    base: Base, layers: Collection[int], most: int, progress: Progress | None, use_cache: bool
) -> OwnText:
    text = _Growing(base, sorted(layers), most)
    first = min(_FIRST_PORTION, 1 + most // (4 * _LONG))  # so that there are several portions
    wrote = None if progress is None else _Counter(progress, most)
    for portion in _portions(base, first, use_cache, wrote):
        added = text.add(portion)
        if text.settled or text.full or not added:  # a base that repeats itself shows nothing new
            break
    if not text.texts:
        _nothing(base)
    return text.finished()


def shortfall(seen: Moments, fresh: Moments) -> float:
    """By how much the share of new text's energy in the used directions is below `ENERGY`; at least 0.

    It is the mean over the experts that are used most, weighted by the tokens of the new text.

    Args:
        seen: moments of the text so far.
        fresh: moments of new text at the same layer.
    """
    both = torch.minimum(seen.tokens, fresh.tokens)  # (E,)
    used = both.topk(min(_EXPERTS_WATCHED, len(both))).indices.tolist()
    watched = [expert for expert in used if both[expert]]
    if not watched:
        return ENERGY
    weights = fresh.tokens[watched].double()
    held = torch.tensor([captured_energy(seen, fresh, expert, ENERGY) for expert in watched]).double()
    return max(0.0, ENERGY - float((weights * held).sum() / weights.sum()))


def _portions(base: Base, first: int, use_cache: bool, wrote: Wrote | None) -> Iterator[dict[str, bool]]:
    """Texts, with whether each is prose: `first` are begun, then always as many as before altogether."""
    number, begun, size = 0, 0, first
    while True:
        address = _address(base) | {"portion": number, "size": size, "length": _LONG}
        found = _load(address) if use_cache else None
        if found is None:
            exchanges = write_exchanges(base, size // 2, 2 * number + 1, length=_LONG, wrote=wrote)
            prose = write_texts(base, size - len(exchanges), 2 * number, length=_LONG, wrote=wrote)
            found = {"prose": prose, "exchanges": exchanges}
            if use_cache:
                _store(address, found)
        yield dict.fromkeys(found["prose"], True) | dict.fromkeys(found["exchanges"], False)
        number, begun = number + 1, begun + size
        size = begun


def _within(base: Base, texts: Mapping[str, bool], most: int) -> dict[str, bool]:
    """The first of the texts that have at most `most` tokens together."""
    kept, left = {}, most
    for text, kind in texts.items():
        left -= _tokens(base, [text])
        if left < 0:
            break
        kept[text] = kind
    return kept


def _tokens(base: Base, texts: Collection[str]) -> int:
    return sum(map(len, base.reader.sequences(list(texts), DEFAULT_LENGTH)))


def _address(base: Base) -> dict[str, Any]:
    """All that a portion depends on, but its number and size."""
    identity = base.fingerprint([])  # with a patch on, still that of the base
    return {
        "version": 1,
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
