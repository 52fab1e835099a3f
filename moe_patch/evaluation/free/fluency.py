"""How fluent written text is: the entropy of its n-grams, and how much it repeats itself."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from moe_patch.evaluation.free.writing import Reply
from moe_patch.evaluation.metrics import Score

_WORD = re.compile(r"\w+|[^\w\s]")
_WEIGHTS = {2: 2 / 3, 3: 4 / 3}  # by n, of ROME's public code
_REPEATED = 4  # tokens


@dataclass(frozen=True, slots=True)
class Fluency:
    """The fluency of some texts."""

    entropy: float | None  # bits; the papers print a hundred times as much; None without a text
    repetition: Score  # mean share of the 4-grams of a reply's tokens that it has before


def measure_fluency(written: Iterable[tuple[str, Reply]]) -> Fluency:
    """The fluency of prompts with their replies: the entropy is of both, the repetition of the reply.

    The entropy is that of ROME (arXiv 2202.05262, section 3.4): the mean of the entropies of a text's bigrams
    and trigrams of words, weighted with 2/3 and 4/3. The repetition is seq-rep-4 (arXiv 1908.04319, Eq. 10).
    Replies of fewer than four tokens have none.
    """
    pairs = list(written)
    entropies = [weighted_entropy(_WORD.findall(f"{prompt} {reply.text}")) for prompt, reply in pairs]
    shares = [repeated_share(reply.tokens) for _, reply in pairs if len(reply.tokens) >= _REPEATED]
    return Fluency(math.fsum(entropies) / len(pairs) if pairs else None, Score.of(shares))


def weighted_entropy(words: Sequence[str]) -> float:
    """The weighted mean, in bits, of the entropies of a text's bigrams and trigrams."""
    weighted = [weight * ngram_entropy(words, n) for n, weight in _WEIGHTS.items()]
    return math.fsum(weighted) / len(weighted)


def ngram_entropy(items: Sequence[Hashable], n: int) -> float:
    """The entropy in bits of the distribution of a sequence's n-grams; 0 if it is shorter than n."""
    counts = Counter(_ngrams(items, n))
    total = counts.total()
    return -math.fsum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


def repeated_share(items: Sequence[Hashable], n: int = _REPEATED) -> float:
    """The share, from 0 to 1, of a sequence's n-grams that occurred in it before."""
    grams = _ngrams(items, n)
    return 1 - len(set(grams)) / len(grams)


def _ngrams(items: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]
