"""The best routing similarity that any edit of the demo model can have on neighbourhood prompts.

    python -m recipes.benchmarks.routing_bound --json

The facts' target values are put into the residual stream at the last token of their own subjects, and nothing
else changes, as by a perfect edit without spill-over. A neighbourhood prompt can still be about a subject
that another fact edits, so routing above the layer changes. No method can do better with these target values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn

from moe_patch.base.capture import capture_routing
from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Batch, Prompt, PromptStyle, encode_fact, pad_right, pad_token
from moe_patch.evaluation.routing import jaccard_similarity
from moe_patch.methods.recipes import recipe_for
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from recipes.training.world import read_world

from . import Figures, print_figures

FACTS = Path(__file__).parents[1] / "facts" / "1000.jsonl"
BATCH = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """A tokenised neighbourhood prompt, and the subject that it is about."""

    subject: str
    prompt: Prompt


def neighbours(base: Base, facts: Sequence[Fact], count: int) -> list[Asked]:
    """Distinct neighbourhood prompts of the facts, evenly spaced, at most `count` of them."""
    subjects = {
        prompt: triple.subject for triple in read_world() for prompt in triple.prompts(held_out=False)
    }
    texts = list(dict.fromkeys(text for fact in facts for text in fact.neighborhood))
    asked = []
    for text in texts[:: -(-len(texts) // count)]:
        subject = subjects[text]
        about = Fact(text, text.replace(subject, "{}", 1), subject, "anything")
        asked.append(Asked(subject, encode_fact(base.reader, about, PromptStyle(), answer=False)))
    return asked


@contextmanager
def put_in_place(base: Base, layer: int, batch: Batch, change: Tensor) -> Iterator[None]:
    """Within the block, `change` (B, d_m) is added to the layer's output at each prompt's edited token."""

    def add(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output.index_put((torch.arange(len(change)), batch.edited), change, accumulate=True)

    hook = base.decoder_layers[layer].register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def similarities(
    base: Base, asked: Sequence[Asked], layer: int, changes: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """For each MoE layer above `layer`, the similarity (tokens,) of routing with and without the changes."""
    above = [index for index in base.layers if index > layer]
    found: dict[int, list[Tensor]] = {index: [] for index in above}
    none = torch.zeros(base.hidden_size)
    for start in range(0, len(asked), BATCH):
        some = asked[start : start + BATCH]
        batch = pad_right([each.prompt for each in some], pad_token(base.tokenizer))
        before = capture_routing(base, batch.ids, batch.mask, above)
        change = torch.stack([changes.get(each.subject, none) for each in some])  # (B, d_m)
        with put_in_place(base, layer, batch, change):
            after = capture_routing(base, batch.ids, batch.mask, above)
        for index in above:
            found[index].append(jaccard_similarity(before[index].experts, after[index].experts))
    return {index: torch.cat(parts) for index, parts in found.items()}


@click.command(help=__doc__)
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS)
@click.option("--layer", type=int, help="Where target values are set; the recipe's last edit layer.")
@click.option("--clamp", type=float, help="Another clamp of the target values than the recipe's.")
@click.option("--prompts", "count", default=512, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(edits: Path, layer: int | None, clamp: float | None, count: int, as_json: bool) -> None:
    """Measure and report."""
    base, facts = open_base(dtype=torch.float32), read_facts(edits).facts
    recipe = recipe_for(base)
    options = recipe.method_options("moeedit") if recipe else {}
    targets = TargetOptions(**options["targets"] | ({} if clamp is None else {"clamp": clamp}))
    layer = max(options["layers"]) if layer is None else layer
    found = find_targets(base, facts, layer, targets)
    changes = dict(zip((fact.subject for fact in facts), found.value - found.start, strict=True))
    asked = neighbours(base, facts, count)
    at_edited = torch.tensor(
        [index == each.prompt.edited for each in asked for index in range(len(each.prompt.ids))]
    )
    figures: Figures = {
        "layer": layer,
        "clamp": targets.clamp,
        "target_loss": sum(found.loss_after) / len(facts),
        "prompts": len(asked),
        "about_edited_subjects": sum(each.subject in changes for each in asked),
    }
    for index, similarity in similarities(base, asked, layer, changes).items():
        figures[f"similarity_{index}"] = 100 * float(similarity.double().mean())
        figures[f"similarity_{index}_at_subjects"] = 100 * float(similarity[at_edited].double().mean())
    print_figures("Routing similarity of a perfect edit on neighbourhood prompts", figures, as_json)


if __name__ == "__main__":
    main()
