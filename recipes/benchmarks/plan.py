"""What `moe-patch plan` says against real builds: time and memory on models of four sizes.

    python -m recipes.benchmarks.plan
    python -m recipes.benchmarks.plan --on ./some-model --facts 20

Atlas is real. The others are of Qwen3-MoE's architecture, with random weights and atlas' tokenizer, so that
builds of the same facts run on all. Searches take a fixed number of steps, since how many one needs is no
matter of the machine. Plan and build run one after the other in a process of their own; memory is the most
that the process had, less what it had before the model was opened. Pages of files do not count, since the
system takes them back.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, Qwen3MoeConfig, Qwen3MoeForCausalLM

from moe_patch.base.opening import open_base
from moe_patch.bench.memory import PeakMemory
from moe_patch.data.fact_file import read_facts
from moe_patch.io.cache import fresh_cache
from moe_patch.io.shipped import demo_model, shipped_folder
from moe_patch.methods import get_method
from moe_patch.planning import Resources, make_plan, outline_model, plan_job
from moe_patch.planning.plan import duration, size

from ._runs import FACTS

#: d_m, layers, experts, d_k of an expert, experts of a token
SIZES = {"small": (256, 8, 16, 192, 4), "medium": (512, 10, 16, 384, 4), "large": (768, 12, 24, 512, 4)}
STEPS = 12
CORPUS_TOKENS = 20_000


def random_model(name: str, folder: Path) -> Path:
    """A model of a size with random weights, in a folder."""
    hidden, layers, experts, key, top_k = SIZES[name]
    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    config = Qwen3MoeConfig(  # type: ignore[call-arg]
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_experts=experts,
        moe_intermediate_size=key,
        intermediate_size=4 * key,
        num_experts_per_tok=top_k,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        decoder_sparse_step=1,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compare(place: str | None, facts: int) -> dict[str, Any]:
    """A plan and a build, each with what it says or took."""
    method = get_method("moeedit")
    edits = read_facts(FACTS / "50.jsonl").facts[:facts]
    outline = outline_model(place)
    fixed = {"steps": STEPS, "margin": None, "patience": None, "stop_loss": 0.0, "use_cache": False}
    options = method.options(
        layers=(len(outline.layers) // 4,),
        corpus=shipped_folder() / "atlas" / "corpus.txt",
        corpus_tokens=CORPUS_TOKENS,
        targets=fixed,
    )
    started = time.perf_counter()
    plan = make_plan(outline, plan_job(outline, method, options, edits), Resources.of())
    planned = time.perf_counter() - started
    with fresh_cache(), PeakMemory(every=0.003, files=False) as memory:
        started = time.perf_counter()
        base = open_base(place)
        method.build(base, edits, options)
        took = time.perf_counter() - started
    most = memory.found.host_peak - memory.found.host_before
    return {
        "model": place or "atlas",
        "parameters": outline.parameters,
        "planning": planned,
        "seconds": {"planned": plan.seconds, "took": took},
        "bytes": {"planned": plan.peak, "took": most},
    }


def _off(figures: dict[str, float]) -> str:
    return f"{100 * (figures['planned'] / figures['took'] - 1):+.0f}%"


def show(records: list[dict[str, Any]]) -> None:
    """A row for each model."""
    table = Table("model", "parameters")
    for column in ("time planned", "took", "off", "memory planned", "took", "off", "to plan"):
        table.add_column(column, justify="right")
    for record in records:
        seconds, held = record["seconds"], record["bytes"]
        table.add_row(
            Path(record["model"]).name,
            f"{record['parameters'] / 1e6:.0f}M",
            *(duration(seconds["planned"]), duration(seconds["took"]), _off(seconds)),
            *(size(held["planned"]), size(held["took"]), _off(held)),
            duration(record["planning"]),
        )
    Console().print(table)


@click.command()
@click.option("--on", "places", multiple=True, help="A model's folder; repeatable.  [default: four sizes]")
@click.option("--facts", default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(places: tuple[str, ...], facts: int, as_json: bool) -> None:
    """Compare plans with builds."""
    records: list[dict[str, Any]] = []
    apart = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        made = [str(random_model(name, Path(folder) / name)) for name in SIZES] if not places else []
        every: list[str | None] = [*places] if places else [None, *made]
        for place in every:
            with apart.Pool(1) as pool:
                records.append(pool.apply(compare, (place, facts)))
    if as_json:
        Console().print_json(json.dumps(records))
    else:
        show(records)


if __name__ == "__main__":
    main()
