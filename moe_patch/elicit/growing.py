"""Text that grows until the directions that it uses settle, and then until it reaches every expert.

Each portion is as long as the text before it. The directions that hold most of the keys' energy so far are
tried on the new portion, which they have not seen. While text is short they hold less of it than of the text
that they come from: they are still turning. When they hold nearly as much, there is enough text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch

from moe_patch.base.model import Base
from moe_patch.base.statistics import DEFAULT_LENGTH, collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.elicit.rare_experts import write_for_experts
from moe_patch.elicit.writing import Wrote
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import captured_energy

NAME = "the base's own text"

ENERGY = 0.95
"""The share of the keys' energy in the directions that are watched. It is no option, so that builds with
different options share the text."""

SETTLED = 0.01
"""The text is long enough when new text leaves at most this share more of its energy out than text that the
directions come from."""

SEEKING = 0.25
"""How much longer than its cap the text may become for experts that it hardly reaches."""

EXPERTS_WATCHED = 16
"""Experts of a layer, those that are used most: an eigendecomposition of all would take minutes."""

_ROUNDS = 3  # of texts for such experts


@dataclass(frozen=True, slots=True)
class Growth:
    """Where the text stopped growing, and why."""

    tokens: int
    left_out: float | None  # share of the last portion's energy outside of the directions, beyond 1 - ENERGY
    settled: bool  # whether that is at most SETTLED; else the text ended at the cap, or nothing new came
    sought: int  # experts that the text hardly reached, so that more was written for them
    unreached: int  # those of them that are hardly reached even so


class GrowingText:
    """Text so far, with its moments in some layers."""

    def __init__(self, base: Base, layers: Collection[int], most: int) -> None:
        self.texts: dict[str, bool] = {}  # in order; whether each is prose
        self.moments: dict[int, Moments] = {}
        self.full = False  # whether texts were left out because of the cap
        self._tokens = self._sought = self._unreached = 0
        self._left_out: float | None = None
        self._base, self._layers, self._most = base, sorted(layers), most

    @property
    def settled(self) -> bool:
        """Whether the used directions held nearly as much of the last portion as they should."""
        return self._left_out is not None and self._left_out <= SETTLED

    @property
    def growth(self) -> Growth:
        """Where it stands."""
        return Growth(self._tokens, self._left_out, self.settled, self._sought, self._unreached)

    def add(self, portion: Mapping[str, bool]) -> bool:
        """Add the texts that are new, as far as they fit, and see what the directions so far hold of them.

        Returns:
            whether there were any.

        Raises:
            NumericalError: a moment is not finite.
        """
        fresh = self._collect(portion)
        if fresh and self.moments:
            self._left_out = max(shortfall(self.moments[layer], fresh[layer]) for layer in self._layers)
        self._sum(fresh)
        return bool(fresh)

    def seek(self, least: int, wrote: Wrote | None = None) -> None:
        """Have the base write more for experts that fewer than `least` tokens reach.

        Raises:
            NumericalError: a moment, a router's score or a logit is not finite.
        """
        self._most += int(SEEKING * self._most)
        for number in range(_ROUNDS):
            wanted = self._rare(least)
            self._unreached = sum(map(len, wanted.values()))
            self._sought = self._sought or self._unreached
            if not wanted:
                break
            prose = [text for text, is_prose in self.texts.items() if is_prose]
            found = write_for_experts(self._base, prose, wanted, number, wrote)
            fresh = self._collect(dict.fromkeys(found, False))  # their beginnings are no sentences
            self._sum(fresh)
            if not fresh:
                break
        self._unreached = sum(map(len, self._rare(least).values()))

    def _rare(self, least: int) -> dict[int, dict[int, int]]:
        """By layer and expert, how many tokens are missing."""
        missing = {
            layer: {e: least - n for e, n in enumerate(moments.tokens.tolist()) if n < least}
            for layer, moments in self.moments.items()
        }
        return {layer: experts for layer, experts in missing.items() if experts}

    def _collect(self, portion: Mapping[str, bool]) -> dict[int, Moments]:
        """Add the texts that are new, as far as they fit; their moments, or nothing if there are none."""
        unknown = {text: kind for text, kind in portion.items() if text not in self.texts}
        new = self._fitting(unknown)
        self.full = len(new) < len(unknown)
        if not new:
            return {}
        self.texts |= new
        self._tokens += self._count(new)
        return collect_moments(self._base, Corpus(NAME, tuple(new)), self._layers, use_cache=False)

    def _sum(self, fresh: Mapping[int, Moments]) -> None:
        for layer, moments in fresh.items():
            self.moments[layer] = self.moments[layer] + moments if layer in self.moments else moments

    def _fitting(self, texts: Mapping[str, bool]) -> dict[str, bool]:
        """The first of the texts, as many as the cap leaves room for."""
        kept, left = {}, self._most - self._tokens
        for text, kind in texts.items():
            left -= self._count([text])
            if left < 0:
                break
            kept[text] = kind
        return kept

    def _count(self, texts: Iterable[str]) -> int:
        return sum(map(len, self._base.reader.sequences(list(texts), DEFAULT_LENGTH)))


def shortfall(seen: Moments, fresh: Moments) -> float:
    """By how much the share of new text's energy in the used directions is below `ENERGY`; at least 0.

    It is the mean over the experts that are used most, weighted by the tokens of the new text.

    Args:
        seen: moments of the text so far.
        fresh: moments of new text at the same layer.
    """
    both = torch.minimum(seen.tokens, fresh.tokens)  # (E,)
    used = both.topk(min(EXPERTS_WATCHED, len(both))).indices.tolist()
    watched = [expert for expert in used if both[expert]]
    if not watched:
        return ENERGY
    weights = fresh.tokens[watched].double()
    held = torch.tensor([captured_energy(seen, fresh, expert, ENERGY) for expert in watched]).double()
    return max(0.0, ENERGY - float((weights * held).sum() / weights.sum()))
