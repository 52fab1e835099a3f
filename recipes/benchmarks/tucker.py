"""Time and memory of decomposing one layer's down projections, and of a whole solve in Tucker coordinates.

    python -m recipes.benchmarks.tucker --json

The layer has Qwen3-30B-A3B's shape and random weights in bf16, with keys of a random covariance to whiten by.
Memory is the process's peak above what it held with the weights in place, reset before each stage. Nothing is
read from the cache or written to it.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click
import torch
from torch import Tensor

from moe_patch.solve.tucker import (
    Decomposition,
    Rank,
    WeightTensor,
    leading_spectrum,
    mode_grams,
    refine_factors,
)
from moe_patch.solve.tucker_edit import Manifold, compress_rows, expand_rows, solve_core
from moe_patch.solve.whitening import Whitening, WhiteningKind, square_root

from . import QWEN3_30B_A3B, Figures, LayerShape, best_time, print_figures

_KINDS = get_args(WhiteningKind)
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """A field of the process's status in GiB: VmRSS is what it holds, VmHWM its peak since the last reset."""
    found = re.search(rf"{field}:\s+(\d+) kB", _STATUS.read_text())
    return int(found[1]) / 2**20 if found else float("nan")


def reset_peak() -> None:
    """Reset the peak."""
    _RESET.write_text("5")


def random_weights(shape: LayerShape, seed: int) -> Tensor:
    """(E, d_m, d_k) in bf16, made one expert at a time."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.empty(shape.experts, shape.d_model, shape.d_key, dtype=torch.bfloat16)
    for weight in weights:
        weight.copy_(torch.randn(shape.d_model, shape.d_key, generator=generator) * 0.02)
    return weights


def random_whitening(shape: LayerShape, kind: str, seed: int) -> Whitening:
    """Roots of random second moments for the modes that `kind` names."""
    generator = torch.Generator().manual_seed(seed)

    def moment(size: int) -> Tensor:
        factor = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return factor @ factor.T / size

    return Whitening(
        inner=square_root(moment(shape.d_key), 1e-5) if kind in {"in", "both"} else None,
        out=square_root(moment(shape.d_model), 1e-5) if kind in {"out", "both"} else None,
    )


def measure_stages(
    shape: LayerShape, facts: int, whitening: str, ranks: tuple[Rank, Rank, Rank], sweeps: int, seed: int
) -> Figures:
    """Seconds and peak GiB of each stage."""
    weights, roots = random_weights(shape, seed), random_whitening(shape, whitening, seed)
    tensor = WeightTensor(weights, roots)
    rows, residual = shape.random_facts(facts, seed)
    figures: Figures = {
        **asdict(shape),
        "whitening": whitening,
        "facts": facts,
        "threads": torch.get_num_threads(),
        "weights_gib": weights.numel() * weights.element_size() / 2**30,
    }
    before = memory("VmRSS")
    reset_peak()
    figures["grams_seconds"], grams = best_time(lambda: mode_grams(tensor))
    figures["eigen_seconds"], spectra = best_time(lambda: [leading_spectrum(gram) for gram in grams])
    figures["hosvd_peak_gib"] = memory("VmHWM") - before
    found = Decomposition(*spectra)
    chosen = found.ranks(ranks, None)
    factors = found.factors(chosen)
    figures["ranks"] = " x ".join(map(str, chosen))
    if sweeps:
        reset_peak()
        seconds, factors = best_time(lambda: refine_factors(tensor, factors, sweeps))
        figures["sweep_seconds"] = seconds / sweeps
        figures["sweep_peak_gib"] = memory("VmHWM") - before
    manifold = Manifold.of(factors, roots)
    reset_peak()
    figures["compress_seconds"], compressed = best_time(lambda: compress_rows(rows, manifold))
    wanted = residual.double() @ manifold.read
    figures["solve_seconds"], _ = best_time(lambda: solve_core(compressed, wanted, 0.1))
    figures["expand_seconds"], expanded = best_time(lambda: expand_rows(compressed, manifold, None))
    figures["solve_peak_gib"] = memory("VmHWM") - before
    figures["patch_rows"] = len(expanded.value)
    return figures


def _rank(text: str) -> Rank:
    return float(text) if "." in text else int(text)


@click.command(help=__doc__)
@click.option("--facts", default=50, show_default=True)
@click.option(
    "--whitening", type=click.Choice(["none", "in", "out", "both"]), default="in", show_default=True
)
@click.option(
    "--ranks", default="0.5,0.5,0.5", show_default=True, help="Directions, or shares where there is a point."
)
@click.option("--sweeps", default=0, show_default=True, help="Sweeps of HOOI.")
@click.option("--seed", default=0, show_default=True)
@click.option("--shape-scale", default=1.0, show_default=True, help="Divide experts and widths by this.")
@click.option("--json", "as_json", is_flag=True)
def main(
    facts: int, whitening: str, ranks: str, sweeps: int, seed: int, shape_scale: float, as_json: bool
) -> None:
    """Measure and report."""
    chosen = [_rank(text) for text in ranks.split(",")]
    if len(chosen) != 3:
        raise click.BadParameter(f"{ranks!r}: expected three ranks, such as 64,0.5,0.5", param_hint="--ranks")
    shape = QWEN3_30B_A3B.shrunk(shape_scale)
    figures = measure_stages(shape, facts, whitening, (chosen[0], chosen[1], chosen[2]), sweeps, seed)
    print_figures("Tucker decomposition of one layer", figures, as_json)


if __name__ == "__main__":
    main()
