"""What the benchmarks share: layer shapes with random facts, timing, and reports.

Each benchmark is a script: python -m recipes.benchmarks.NAME, with --json for one object on
standard output.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moe_patch.patch.rows import Rows, sort_rows

Result = TypeVar("Result")
Figures = dict[str, float | int | str]


@dataclass(frozen=True, slots=True)
class LayerShape:
    """The sizes of one MoE layer."""

    experts: int
    top_k: int
    d_model: int
    d_key: int

    def shrunk(self, factor: float) -> LayerShape:
        """The same layer with fewer and narrower experts; a fact still reaches as many of them."""
        return LayerShape(
            max(self.top_k, round(self.experts / factor)),
            self.top_k,
            max(1, round(self.d_model / factor)),
            max(1, round(self.d_key / factor)),
        )

    def random_facts(self, facts: int, seed: int) -> tuple[Rows, Tensor]:
        """Gaussian keys at random experts with softmax gates, and Gaussian residuals (T, d_m), in fp32."""
        generator = torch.Generator().manual_seed(seed)
        gate, expert = torch.rand(facts, self.experts, generator=generator).topk(self.top_k)  # (T, K) each
        gate = gate.mul(4.0).softmax(1)
        key = torch.randn(facts, self.top_k, self.d_key, generator=generator)  # (T, K, d_k)
        fact = torch.arange(facts)[:, None].expand_as(expert)
        rows = sort_rows(
            (gate[..., None] * key).reshape(-1, self.d_key), expert.reshape(-1), fact.reshape(-1), facts
        )
        return rows, torch.randn(facts, self.d_model, generator=generator)


QWEN3_30B_A3B = LayerShape(experts=128, top_k=8, d_model=2048, d_key=768)


def best_time(work: Callable[[], Result], repeats: int = 1) -> tuple[float, Result]:
    """The best wall time in seconds of `repeats` runs, and the last result.

    Of all summaries, the best time depends least on what else the machine does.
    """
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def print_figures(title: str, figures: Mapping[str, float | int | str], as_json: bool) -> None:
    """Print the figures to standard output: one JSON object, or a table."""
    if as_json:
        click.echo(json.dumps(figures))
        return
    table = Table("figure", "value", title=title)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.4g}" if isinstance(value, float) else f"{value}")
    Console().print(table)
