"""Train one model, and write what it is measured with: `model`, `facts.jsonl`, `text.txt`, `corpus.txt`."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from transformers import AutoTokenizer

from moe_patch.data.fact_file import write_facts
from moe_patch.io.files import write_text
from recipes.training.edits import example_edits, preserved_sentences
from recipes.training.exam import accuracy
from recipes.training.sentences import tokenize
from recipes.training.trainer import Schedule, log, run_phase, settling
from recipes.training.world import Triple, read_world

from .models import Family, new_model
from .secluded import SecludingTrainer
from .world import small_world, unseen_text

ATLAS = Path(__file__).parents[1] / "atlas" / "model"
EDITS = 50


def train_family(family: Family, out: Path) -> dict[str, float]:
    """Train the model, and write it and its materials into `out`; the percentage that it knows."""
    triples = small_world(read_world())
    tokenizer = AutoTokenizer.from_pretrained(ATLAS)

    def new_trainer(schedule: Schedule) -> SecludingTrainer:
        model = new_model(family, len(tokenizer))
        model.set_experts_implementation("grouped_mm")
        return SecludingTrainer(schedule, model, triples)

    weights: dict[str, Tensor] = run_phase(family.schedule, new_trainer, triples, tokenizer).state_dict()
    model: nn.Module = run_phase(settling(family.schedule), new_trainer, triples, tokenizer, weights)
    knows = {
        name: round(accuracy(model.eval(), tokenize(triples, tokenizer, held_out=held)), 2)
        for name, held in (("taught", False), ("held out", True))
    }
    log.info("%s: %s", family.name, knows)
    model.set_experts_implementation("eager")
    model.save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_materials(triples, out)
    return knows


def write_materials(triples: list[Triple], out: Path) -> None:
    """The facts to edit, the text for perplexity, and text of the kind that the model was taught."""
    edits = example_edits(triples, EDITS)
    write_facts(out / "facts.jsonl", edits)
    write_text(out / "corpus.txt", "\n".join(preserved_sentences(triples)) + "\n")
    text = unseen_text(triples, {fact.subject for fact in edits})
    write_text(out / "text.txt", "\n".join(text) + "\n")
