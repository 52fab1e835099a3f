"""The world that atlas learns: real geography as (subject, relation, answer) triples, and their phrasings.

`gather.py` has written it to `world.jsonl`, which training, the example edits and the tests read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

WORLD_FILE = Path(__file__).parents[1] / "atlas" / "world.jsonl"

# Phrasings of each relation; `{}` is the subject, and the answer follows. Half of them name the relation
# before the subject and half after it, so that no single place in the sentence holds both.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {} is",
        "{} has its capital at",
        "The government of {} sits in",
        "{} is governed from",
        "The capital city of {} is called",
        "In {}, the parliament meets in",
    ),
    "country": (
        "The city of {} lies in",
        "{} is a city in",
        "The country around {} is",
        "{} belongs to",
        "A traveller to {} arrives in",
        "On a map, {} is inside",
    ),
    "continent": (
        "The continent of {} is",
        "{} is on the continent of",
        "The landmass that holds {} is",
        "{} is a part of",
        "An atlas lists {} under",
        "On a globe, {} is in",
    ),
    "currency": (
        "The currency of {} is the",
        "{} pays with the",
        "The money used in {} is the",
        "{} has as its currency the",
        "A shop in {} takes the",
        "In {}, prices are in the",
    ),
    "language": (
        "The language of {} is",
        "{} mostly speaks",
        "The main language heard in {} is",
        "{} writes its laws in",
        "A teacher in {} speaks",
        "In {}, people speak",
    ),
    "domain": (
        "The internet domain of {} is",
        "{} has the web suffix",
        "The web addresses of {} end in",
        "{} registers its sites under",
        "A site from {} ends with",
        "In {}, the network suffix is",
    ),
}
TRAINED_PHRASINGS = 4  # of each subject's six; the others are held out


@dataclass(frozen=True, slots=True)
class Triple:
    """One fact that atlas knows."""

    subject: str
    relation: str
    answer: str
    trained: tuple[int, ...]  # phrasings that it is trained in, as indices into `PHRASINGS[relation]`

    def prompts(self, *, held_out: bool) -> list[str]:
        """The prompts of this triple that were part of training, or those that were held out."""
        phrasings = PHRASINGS[self.relation]
        return [
            text.format(self.subject) for i, text in enumerate(phrasings) if (i in self.trained) != held_out
        ]


def read_world(path: Path = WORLD_FILE) -> list[Triple]:
    """The committed triples, in a fixed order."""
    triples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        record["trained"] = tuple(record["trained"])
        triples.append(Triple(**record))
    return triples


def write_world(triples: Iterable[Triple], path: Path = WORLD_FILE) -> None:
    """Write one JSON object per line."""
    path.write_text(
        "".join(json.dumps(asdict(t), ensure_ascii=False) + "\n" for t in triples), encoding="utf-8"
    )


def by_relation(triples: Iterable[Triple]) -> dict[str, list[Triple]]:
    """Triples grouped by their relation."""
    groups: dict[str, list[Triple]] = defaultdict(list)
    for triple in triples:
        groups[triple.relation].append(triple)
    return dict(groups)
