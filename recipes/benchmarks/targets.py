"""Target values of 50 facts together compared with one fact at a time without a cache.

    python -m recipes.benchmarks.targets --json

One at a time is MEMIT's search as published: for every step of every fact, whole forward passes of the prompt
and of the essence prompt, with a hook that adds the change at the edited token. Both take the same steps.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.data.fact_file import read_facts
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, encode_essence, encode_fact
from moe_patch.methods.recipes import recipe_for
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets

from . import Figures, best_time, print_figures

FACTS = Path(__file__).parents[1] / "facts" / "50.jsonl"


def logits_with(base: Base, prompt: Prompt, layer: int, change: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (S, V) with `change` (d_m,) added to the output at the edited token, and that output before."""
    seen: list[Tensor] = []

    def add(_module: object, _inputs: object, output: Tensor) -> Tensor:
        seen.append(output[0, prompt.edited].detach())
        return output.index_put((torch.tensor([0]), torch.tensor([prompt.edited])), change, accumulate=True)

    hook = base.decoder_layers[layer].register_forward_hook(add)
    try:
        return base.model(input_ids=torch.tensor([prompt.ids]), use_cache=False).logits[0], seen[0]
    finally:
        hook.remove()


def target_alone(base: Base, fact: Fact, layer: int, options: TargetOptions) -> Tensor:
    """z* (d_m,) of one fact."""
    rewrite, essence = encode_fact(base.reader, fact, options.style), encode_essence(base.reader, fact)
    assert rewrite.target is not None
    wanted = torch.tensor(rewrite.ids[rewrite.target :])
    with torch.no_grad():
        nothing = torch.zeros(base.hidden_size)
        start = logits_with(base, rewrite, layer, nothing)[1]
        before = logits_with(base, essence, layer, nothing)[0][-1].log_softmax(-1)
    change = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([change], lr=options.learning_rate)
    for step in range(options.steps):
        said = logits_with(base, rewrite, layer, change)[0][rewrite.target - 1 : -1]
        after = logits_with(base, essence, layer, change)[0][-1].log_softmax(-1)
        divergence = functional.kl_div(before, after, log_target=True, reduction="sum")
        total = functional.cross_entropy(said, wanted) + options.kl_weight * divergence
        total = total + options.weight_decay * change.norm() / start.norm() ** 2
        if step + 1 == options.steps or total < options.stop_loss:
            break
        adam.zero_grad()
        total.backward(inputs=[change])
        adam.step()
        with torch.no_grad():
            change *= min(1.0, float(options.clamp * start.norm() / change.norm()))
    return (start + change).detach()


def compare_searches(base: Base, facts: list[Fact], repeats: int) -> Figures:
    """Seconds of both ways, their ratio, and how far apart the results are."""
    recipe = recipe_for(base)
    chosen = recipe.method_options("moeedit") if recipe else {}
    layer = max(chosen.get("layers", [min(base.layers)]))
    options = TargetOptions(**chosen.get("targets", {}))
    find_targets(base, facts[:2], layer, options)  # the first pass pays for allocations
    together, found = best_time(lambda: find_targets(base, facts, layer, options), repeats)
    apart, values = best_time(lambda: torch.stack([target_alone(base, f, layer, options) for f in facts]))
    error = (found.value - values).norm(dim=1) / (values - found.start).norm(dim=1)  # (T,)
    return {
        "facts": len(facts),
        "steps": options.steps,
        "together_seconds": together,
        "one_at_a_time_seconds": apart,
        "ratio": apart / together,
        "worst_relative_difference_of_a_change": float(error.max()),
    }


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option("--edits", type=click.Path(exists=True, path_type=Path), default=FACTS)
@click.option("--repeats", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(model: str | None, edits: Path, repeats: int, as_json: bool) -> None:
    """Compare and report."""
    figures = compare_searches(open_base(model), list(read_facts(edits).facts), repeats)
    print_figures("target values together against one at a time", figures, as_json)


if __name__ == "__main__":
    main()
