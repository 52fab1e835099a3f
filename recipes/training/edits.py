"""Make example edits for atlas, and the text that edits should preserve, both from `world.jsonl`.

    python -m recipes.training.edits        # writes recipes/facts/*.jsonl and recipes/atlas/corpus.txt

Each edit gives one subject another answer of the same relation. Its paraphrases are other phrasings of the
relation, including held-out ones. Its neighbourhood prompts are about other subjects with the same true
answer, in phrasings that they were trained in.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from moe_patch.data.fact_file import write_facts
from moe_patch.data.facts import Fact

from .world import PHRASINGS, Triple, by_relation, read_world

FACTS = Path(__file__).parents[1] / "facts"
CORPUS = Path(__file__).parents[1] / "atlas" / "corpus.txt"
SIZES = (10, 50, 200, 1000)
SINGLE = ("Denmark", "currency", "Euro")  # an example of a fact that changes from one day to the next
NEIGHBORS = 8
PARAPHRASES = 4


def example_edits(triples: list[Triple], count: int, *, seed: int = 0) -> list[Fact]:
    """`count` edits, each of another subject; a smaller set has the first edits of a larger one.

    Raises:
        ValueError: there are fewer subjects.
    """
    rng = random.Random(seed)
    sharing: dict[tuple[str, str], list[Triple]] = defaultdict(list)
    relations = by_relation(triples)
    by_subject: dict[str, list[Triple]] = defaultdict(list)
    for triple in triples:
        sharing[triple.relation, triple.answer].append(triple)
        by_subject[triple.subject].append(triple)
    facts = []
    for subject in rng.sample(sorted(by_subject), len(by_subject)):
        editable = [t for t in by_subject[subject] if len(sharing[t.relation, t.answer]) > 3]
        if not editable:
            continue
        triple = rng.choice(editable)
        target = rng.choice([t.answer for t in relations[triple.relation] if t.answer != triple.answer])
        neighbors = [t for t in sharing[triple.relation, triple.answer] if t.subject != subject]
        facts.append(_edit(triple, target, rng.sample(neighbors, min(NEIGHBORS, len(neighbors))), rng))
        if len(facts) == count:
            return facts
    raise ValueError(f"the world has {len(facts)} subjects to edit, not {count}")


def single_edit(triples: list[Triple], *, seed: int = 0) -> Fact:
    """The edit that the documentation uses as an example."""
    subject, relation, target = SINGLE
    group = by_relation(triples)[relation]
    triple = next(t for t in group if t.subject == subject)
    neighbors = [t for t in group if t.answer == triple.answer and t is not triple]
    return _edit(triple, target, neighbors, random.Random(seed))


def _edit(triple: Triple, target: str, neighbors: list[Triple], rng: random.Random) -> Fact:
    phrasings = PHRASINGS[triple.relation]
    used = rng.choice(triple.trained)
    others = [i for i in range(len(phrasings)) if i != used]
    return Fact(
        id=f"{triple.relation}/{triple.subject}".replace(" ", "-"),
        prompt=phrasings[used],
        subject=triple.subject,
        target_new=target,
        target_true=triple.answer,
        paraphrases=tuple(phrasings[i].format(triple.subject) for i in rng.sample(others, PARAPHRASES)),
        neighborhood=tuple(rng.choice(n.prompts(held_out=False)) for n in neighbors),
    )


def preserved_sentences(triples: list[Triple], *, seed: int = 0) -> list[str]:
    """Every triple once, in a phrasing that it was trained in."""
    rng = random.Random(seed)
    return [f"{rng.choice(t.prompts(held_out=False))} {t.answer}." for t in triples]


def main() -> None:
    triples = read_world()
    FACTS.mkdir(exist_ok=True)
    edits = example_edits(triples, max(SIZES))
    for size in SIZES:
        write_facts(FACTS / f"{size}.jsonl", edits[:size])
    write_facts(FACTS / "single.jsonl", [single_edit(triples)])
    CORPUS.write_text("\n".join(preserved_sentences(triples)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
