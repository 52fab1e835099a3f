"""What first tries are measured on: a model, facts to edit, text that no build sees, and text to protect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.corpus import Corpus
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.data.schemas import FactSchema
from moe_patch.evaluation import Questions, Scores, Setting, measure_scores
from moe_patch.evaluation.drift import Drift, measure_drift
from moe_patch.patch import Patch
from recipes.families.world import unseen_text
from recipes.training.world import read_world

from ._runs import FACTS

ATLAS = "atlas"
SETTING = Setting(batch_size=512)


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with what it is measured on."""

    name: str
    model: Path | None  # None for the demo model
    facts: Path
    text: Corpus
    corpus: Path | None  # text to protect, which only the long search may use


def subject_at(place: str) -> Subject:
    """The demo model by its name, a folder as `recipes.families` writes it, or MODEL,FACTS,TEXT[,CORPUS]."""
    if place == ATLAS:
        facts = FACTS / "50.jsonl"
        unseen = unseen_text(read_world(), {fact.subject for fact in read_facts(facts)})
        text = Corpus("unseen text", tuple(unseen))
        return Subject(ATLAS, None, facts, text, FACTS.parent / "atlas" / "corpus.txt")
    if "," in place:
        model, edits, text_at, *corpus = map(Path, place.split(","))
        return Subject(model.name, model, edits, Corpus.read(text_at), corpus[0] if corpus else None)
    folder = Path(place)
    return Subject(
        folder.name,
        folder / "model",
        folder / "facts.jsonl",
        Corpus.read(folder / "text.txt"),
        folder / "corpus.txt",
    )


def scores_now(base: Base, facts: Sequence[Fact], schema: FactSchema) -> Scores:
    """The scores of the model as it is."""
    return measure_scores(base, Questions.about(facts, schema=schema), SETTING, stage="").scores


def scores_with(base: Base, patch: Patch) -> Scores:
    """The scores of a patch on its own facts. Those of the bare base are the same each time, and left out."""
    with apply(base, patch, check=False, allow_large=True):
        return scores_now(base, patch.facts, patch.schema)


def drift_with(base: Base, subject: Subject, patch: Patch) -> Drift:
    """What a patch does to the text that no build sees."""
    return measure_drift(
        base, patch, list(subject.text.sequences(base.reader, max_tokens=20_000, length=256))
    )
