"""Collecting second moments compared with a plain forward pass over the same batches.

    python -m recipes.benchmarks.statistics --json

The plain pass runs the whole model, logits included. Statistics are collected once for all MoE layers, which
takes longest, and once for the given layers, after which the pass ends early. The runs alternate, so that a
busy machine slows all of them.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import click
import torch

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.base.statistics import DEFAULT_BATCH_TOKENS, DEFAULT_LENGTH, collect_moments
from moe_patch.data.corpus import Corpus, padded_batches
from moe_patch.data.prompts import pad_token

from . import Figures, best_time, print_figures

CORPUS = Path(__file__).parent.parent / "atlas" / "corpus.txt"


def plain_pass(base: Base, corpus: Corpus, max_tokens: int) -> None:
    """Run the corpus through the model in the batches that the statistics use."""
    sequences = list(corpus.sequences(base.reader, max_tokens=max_tokens, length=DEFAULT_LENGTH))
    with torch.no_grad():
        for ids, mask in padded_batches(sequences, DEFAULT_BATCH_TOKENS, pad_token(base.tokenizer)):
            base.model(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False)


def compare_passes(base: Base, corpus: Corpus, layers: list[int], max_tokens: int, repeats: int) -> Figures:
    """Median seconds of each way, and their ratios to the plain pass."""
    every = sorted(base.layers)

    def collect(wanted: list[int]) -> int:
        collected = collect_moments(base, corpus, wanted, max_tokens=max_tokens, use_cache=False)
        return int(collected[wanted[0]].tokens.sum())

    plain_pass(base, corpus, max_tokens)  # the first pass pays for allocations
    seconds: dict[str, list[float]] = {"plain": [], "all": [], "some": []}
    for _ in range(repeats):
        seconds["plain"].append(best_time(lambda: plain_pass(base, corpus, max_tokens))[0])
        seconds["all"].append(best_time(lambda: collect(every))[0])
        seconds["some"].append(best_time(lambda: collect(layers))[0])
    median = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "model": base.name,
        "routed_tokens_per_layer": collect(layers[:1]),
        "threads": torch.get_num_threads(),
        "plain_seconds": median["plain"],
        "all_layers": len(every),
        "all_layers_seconds": median["all"],
        "all_layers_to_plain": median["all"] / median["plain"],
        "some_layers": ",".join(map(str, layers)),
        "some_layers_seconds": median["some"],
        "some_layers_to_plain": median["some"] / median["plain"],
    }


@click.command(help=__doc__)
@click.option("--model", help="Name or folder; the demo model unless given.")
@click.option("--corpus", type=click.Path(path_type=Path), default=CORPUS, help="Text or JSONL.")
@click.option("--layers", default="0,1", show_default=True, help="Layers of the shorter run.")
@click.option("--max-tokens", default=60_000, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(model: str | None, corpus: Path, layers: str, max_tokens: int, repeats: int, as_json: bool) -> None:
    """Compare and report."""
    base = open_base(model)
    wanted = [int(layer) for layer in layers.split(",")]
    figures = compare_passes(base, Corpus.read(corpus), wanted, max_tokens, repeats)
    print_figures("statistics against a plain forward pass", figures, as_json)


if __name__ == "__main__":
    main()
