"""What whole deltas do: their effect on facts, their size, and how alike they are.

The algebra of the low-rank part is in `moe_patch.solve.algebra`; dense matrices come on top of it here. One
expert's matrix is built at a time, and only where there are dense ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.delta import LayerDelta
from moe_patch.patch.rows import Rows
from moe_patch.solve.algebra import edit_kernel, edit_response, expert_penalties


def delta_response(delta: LayerDelta, probe: Rows) -> Tensor:
    """What the delta adds to the layer's output for the probe's facts.

    Returns:
        (T', d_m) in fp64: row t is sum_j g_tj D_j k~_tj.
    """
    total = edit_response(delta.left, delta.rows, probe)  # (T', d_m)
    if delta.dense is not None:
        for expert, block in probe.blocks():
            if (whole := delta.dense.of(expert)) is not None:
                added = probe.value[block].double() @ whole.double().T  # (n_e, d_m)
                total.index_add_(0, probe.fact[block], added)
    return total


def delta_penalties(delta: LayerDelta) -> dict[int, float]:
    """||D_j||_F^2 of each expert that the delta changes, experts ascending."""
    found = dict(zip(delta.rows.experts(), expert_penalties(delta.left, delta.rows), strict=True))
    for expert in [] if delta.dense is None else delta.dense.experts():
        found[expert] = float(delta.matrix(expert).double().square().sum())
    return dict(sorted(found.items()))


def delta_product(first: LayerDelta, second: LayerDelta) -> float:
    """The sum over experts of <D_j, D'_j>, in fp64.

    Raises:
        SolveError: the deltas differ in width.
    """
    if first.widths != second.widths:
        raise SolveError(
            f"deltas of widths (d_m, d_k) = {first.widths} and {second.widths} are of layers of different "
            "models: compare deltas of one"
        )
    if first.dense is None and second.dense is None:
        gram = edit_kernel(first.rows, second.rows)  # (R, R')
        return float((gram * (first.left.double() @ second.left.double().T)).sum())
    both = sorted({*first.experts()} & {*second.experts()})
    products = (first.matrix(expert).double() * second.matrix(expert).double() for expert in both)
    return float(sum((product.sum() for product in products), torch.zeros((), dtype=torch.float64)))
