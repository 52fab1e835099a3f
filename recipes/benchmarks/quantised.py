"""How much of an edit is lost in experts of four and eight bits, by its size and its number of facts.

    python -m recipes.benchmarks.quantised --json

One Gaussian expert in MXFP4 (scales for 32 along d_k) and one in FP8 (e4m3, scales for 128 by 128), d_k as
wide as GPT-OSS's and Qwen3-30B-A3B's. An edit adds vectors of random direction to the outputs for its keys,
with the given share of the outputs' norm; it is the smallest change of the weight that does so. `nearest` and
`compensated` are the shares of it that are lost on these keys. `noise` is the relative change that
compensated rounding makes in the outputs for other keys.
"""

from __future__ import annotations

import click
import torch
from torch import Tensor

from moe_patch.checkpoint.grid import E2M1, E4M3, Grid
from moe_patch.checkpoint.quantised import place_on_grid

from . import Figures, print_figures

MXFP4, FP8 = (128, 2880), (128, 768)  # (d_m, d_k); rows are rounded one by one, so few of them will do


def mxfp4(generator: torch.Generator) -> tuple[Grid, Tensor, Tensor]:
    weight = 0.02 * torch.randn(MXFP4, generator=generator)
    largest = weight.unflatten(1, (-1, 32)).abs().amax(2)  # (d_m, d_k / 32)
    return E2M1, weight, (largest / 4).log2().floor().exp2().repeat_interleave(32, 1)


def fp8(generator: torch.Generator) -> tuple[Grid, Tensor, Tensor]:
    weight = 0.02 * torch.randn(FP8, generator=generator)
    blocks = weight.unflatten(1, (-1, 128)).unflatten(0, (-1, 128)).abs().amax((1, 3)) / 448
    return E4M3, weight, blocks.repeat_interleave(128, 0).repeat_interleave(128, 1)


def random_keys(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Keys whose elements differ in size, as activations do."""
    return torch.randn(count, width, generator=generator) * torch.rand(width, generator=generator).square()


def measure_rounding(
    grid: Grid, weight: Tensor, scale: Tensor, facts: int, size: float, seed: int
) -> Figures:
    generator = torch.Generator().manual_seed(seed + 1)  # not the stream that the weight came from
    own, other = random_keys(facts, weight.shape[1], generator), random_keys(64, weight.shape[1], generator)
    stored = grid.values[grid.around(weight / scale)[0]] * scale
    outputs = stored @ own.T  # (d_m, n)
    residual = torch.randn(outputs.shape, generator=generator)
    residual *= size * outputs.norm(dim=0) / residual.norm(dim=0)
    exact = stored + residual @ torch.linalg.pinv(own.T)
    found: Figures = {}
    for rounding, kept in (("nearest", own[:0]), ("compensated", own)):
        rounded = grid.values[place_on_grid(grid, exact, scale, kept)] * scale
        found[rounding] = float(((rounded - exact) @ own.T).norm() / residual.norm())
        found["noise"] = float(((rounded - exact) @ other.T).norm() / (stored @ other.T).norm())
    return found


@click.command(help=__doc__)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(seed: int, as_json: bool) -> None:
    """Measure and report."""
    torch.set_num_threads(1)
    for name, make in (("MXFP4", mxfp4), ("FP8", fp8)):
        expert = make(torch.Generator().manual_seed(seed))
        for size in (0.01, 0.1):
            for facts in (1, 10, 30):
                figures = {"edit": size, "facts": facts, **measure_rounding(*expert, facts, size, seed)}
                print_figures(f"what {name} loses", figures, as_json)


if __name__ == "__main__":
    main()
