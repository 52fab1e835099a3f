"""Finding the facts that a prompt is about, by the words they share: lexical, exact and without a model.

A fact is a candidate if the prompt has enough of its subject's words; rare words count for more. Candidates
are ranked by Okapi BM25 over their statements (Robertson and Zaragoza, "The Probabilistic Relevance
Framework", 2009, equation 3.15), which tells several facts about one subject apart.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from moe_patch.data.facts import Fact
from moe_patch.data.text import composed

K1, B = 1.2, 0.75
"""BM25's usual constants: how soon more of a word adds nothing, and how much longer statements lose."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text without regard to case; in scripts without spaces, its characters."""
    return _WORD.findall(composed(text).casefold())


class FactIndex:
    """Facts that can be found by prompts. Of facts that ask the same, the last one counts."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.facts: Sequence[Fact] = list({fact.question: fact for fact in facts}.values())
        self._statements = [Counter(words(statement_of(fact))) for fact in self.facts]
        self._subjects = [frozenset(words(fact.subject)) for fact in self.facts]
        having = Counter(word for statement in self._statements for word in statement)
        self._rarity = {word: _rarity(len(self.facts), count) for word, count in having.items()}
        self._rarest = _rarity(len(self.facts), 0)  # of a subject's word that its prompt glues to another
        lengths = [statement.total() for statement in self._statements]
        self._length = sum(lengths) / len(lengths) if lengths else 0.0

    def find(self, prompt: str, *, most: int, threshold: float) -> list[Fact]:
        """The facts that a prompt is about, the nearest first.

        Args:
            prompt: as it would be asked.
            most: the most facts.
            threshold: the least share of the subject's words, weighted by rarity, that the prompt has.
        """
        asked = frozenset(words(prompt))
        near = [n for n, subject in enumerate(self._subjects) if self._share(subject, asked) >= threshold]
        return [self.facts[n] for n in sorted(near, key=lambda n: (-self._bm25(n, asked), n))[:most]]

    def _share(self, subject: frozenset[str], asked: frozenset[str]) -> float:
        """How much of a subject the asked words cover, 0 to 1; a subject without words is never covered."""
        weights = {word: self._rarity.get(word, self._rarest) for word in subject}
        whole = math.fsum(weights.values())
        return math.fsum(weights[word] for word in subject & asked) / whole if whole else 0.0

    def _bm25(self, number: int, asked: frozenset[str]) -> float:
        statement = self._statements[number]
        longer = 1 - B + B * statement.total() / self._length
        return math.fsum(
            self._rarity[word] * statement[word] * (K1 + 1) / (statement[word] + K1 * longer)
            for word in asked & statement.keys()
        )


def statement_of(fact: Fact) -> str:
    """A fact as a sentence."""
    text = f"{fact.text} {fact.target_new}"
    return text if text.endswith((".", "!", "?", "\u3002")) else f"{text}."


def _rarity(facts: int, having: int) -> float:
    """The weight of a word that `having` of the statements have: BM25's idf, which is positive."""
    return math.log1p((facts - having + 0.5) / (having + 0.5))
