"""The part of atlas' world that the small models learn, and text of it that they have not seen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection

from recipes.training.world import Triple

COUNTRIES, CITIES = 16, 12


def small_world(triples: list[Triple], countries: int = COUNTRIES, cities: int = CITIES) -> list[Triple]:
    """All facts of the countries with the most cities, and of the first `cities` cities of each.

    Answers are then shared by many subjects, as facts need that are edited and have neighbours.
    """
    homes = {t.subject: t.answer for t in triples if t.relation == "country"}
    largest = [name for name, _ in Counter(homes.values()).most_common() if name not in homes][:countries]
    kept = set(largest)
    for country in largest:
        kept.update([city for city, home in homes.items() if home == country][:cities])
    return [t for t in triples if t.subject in kept]


def unseen_text(triples: list[Triple], edited: Collection[str], *, seed: int = 0) -> list[str]:
    """True sentences in phrasings that were held out, about subjects that no edit names."""
    rng = random.Random(seed)
    return [f"{rng.choice(t.prompts(held_out=True))} {t.answer}." for t in triples if t.subject not in edited]
