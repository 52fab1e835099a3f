"""What first tries are measured on: a model, facts to edit, text that no build sees, and text to protect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moe_patch.data.corpus import Corpus
from moe_patch.data.fact_file import read_facts
from recipes.families.world import unseen_text
from recipes.training.world import read_world

from ._runs import FACTS

ATLAS = "atlas"


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with what it is measured on."""

    name: str
    model: Path | None  # None for the demo model
    facts: Path
    text: Corpus
    corpus: Path | None  # text to protect, which only the long search may use


def subject_at(place: str) -> Subject:
    """The demo model by its name, or a folder as `recipes.families` writes it; it need have no corpus."""
    if place == ATLAS:
        facts = FACTS / "50.jsonl"
        unseen = unseen_text(read_world(), {fact.subject for fact in read_facts(facts)})
        text = Corpus("unseen text", tuple(unseen))
        return Subject(ATLAS, None, facts, text, FACTS.parent / "atlas" / "corpus.txt")
    folder = Path(place)
    corpus = folder / "corpus.txt"
    return Subject(
        folder.name,
        folder / "model",
        folder / "facts.jsonl",
        Corpus.read(folder / "text.txt"),
        corpus if corpus.exists() else None,
    )
