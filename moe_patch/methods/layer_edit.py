"""One layer's edit: its problem, a solver's solution, and the delta that grows batch by batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from moe_patch.base.capture import Handle, attach_delta
from moe_patch.base.model import Base
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows, concatenate_rows, one_left_per_row, select_rows
from moe_patch.solve.algebra import edit_kernel, edit_response


@dataclass(frozen=True, slots=True, eq=False)
class LayerProblem:
    """One layer's share of one batch.

    The facts of earlier batches come first. Their residual is zero, so their outputs stay the same, unless a
    new fact about the same subject changes them too.
    """

    layer: int
    rows: Rows  # of T facts
    residual: Tensor  # (T, d_m) fp32
    right: Rows | None = None  # those that left factors are multiplied with, if they are not `rows`

    def kernel(self) -> Tensor:
        """(T, T) fp64: what the solution of one fact adds for another, for equal left factors."""
        if self.right is None:
            return edit_kernel(self.rows)
        kernel = edit_kernel(self.rows, self.right)
        return (kernel + kernel.T) / 2  # exact but for rounding


@dataclass(frozen=True, slots=True, eq=False)
class LayerBatch:
    """What a layer is asked for one batch of T facts."""

    rows: Rows  # of the new facts
    residual: Tensor  # (T, d_m) fp32
    earlier: Tensor | None  # (T_earlier, d_m) change of earlier facts' outputs; None if not protected
    right: Rows | None = None  # as in `LayerProblem`, of the new facts


@dataclass(frozen=True, slots=True, eq=False)
class LayerSolution:
    """What a solver adds to its layer."""

    left: Tensor  # (T, d_m), or (nnz, d_m) if `per_row`
    ridge: float  # absolute lambda
    per_row: bool = False  # whether each row of the problem has a left factor, instead of each fact
    objectives: tuple[float, ...] = ()  # from an iterative solver: at the start and after each pass


class LayerSolver(Protocol):
    """The part that methods differ in: it finds a left factor for one layer's rows and residuals."""

    def __call__(self, problem: LayerProblem) -> LayerSolution:
        """Solve one layer's share of one batch."""


class RightRows(Protocol):
    """Turns a layer's rows g k~ into the rows that its left factors are multiplied with, one for each."""

    def __call__(self, rows: Rows) -> Rows:
        """The rows, at the same experts and of the same facts."""


class GrowingSolution:
    """The sum of the solutions of one layer's problems, batch by batch; it does not touch a model.

    Args:
        layer: its number.
        right_rows: where the rows of the delta are not the facts' own; for solutions with a left factor for
            each fact.
    """

    def __init__(self, layer: int, right_rows: RightRows | None = None) -> None:
        self.layer = layer
        self._right_rows = right_rows
        self._rows: Rows | None = None
        self._right: Rows | None = None  # of all facts; kept only where it is not `_rows`
        self._left: Tensor | None = None  # (R, d_m)
        self._residual = torch.empty(0)  # (T, d_m) what the whole delta should add
        self._per_row = False
        self._ridge = 0.0
        self._protected = 0  # how many of the first facts belong to a stack below and not to this edit

    def protect(self, rows: Rows, width: int) -> None:
        """Put the facts of a stack below before all batches; to be called once, before the first batch.

        Args:
            rows: of these facts.
            width: of the residuals.
        """
        self._rows, self._protected = rows, rows.num_facts
        self._right = self._right_rows(rows) if self._right_rows else None
        self._residual = torch.zeros(rows.num_facts, width)

    def batch(self, rows: Rows, residual: Tensor, earlier: Tensor | None) -> LayerBatch:
        """A batch, with the rows that its left factors will be multiplied with.

        Args:
            rows: of the new facts.
            residual: (T, d_m) of the new facts.
            earlier: (T_earlier, d_m) the change that earlier facts' outputs should get; None if they are not
                protected.
        """
        return LayerBatch(rows, residual, earlier, self._right_rows(rows) if self._right_rows else None)

    def problem(self, batch: LayerBatch) -> LayerProblem:
        """A batch's problem, with the facts of earlier batches before its own if they are protected."""
        if self._rows is None or batch.earlier is None:
            return LayerProblem(self.layer, batch.rows, batch.residual, batch.right)
        rows = concatenate_rows(self._rows, batch.rows)
        residual = torch.cat([batch.earlier, batch.residual])
        return LayerProblem(self.layer, rows, residual, _joined(self._right, batch.right))

    def add(self, batch: LayerBatch, solution: LayerSolution) -> None:
        """Add the solution of the batch's problem to the sum."""
        rows, residual, earlier = batch.rows, batch.residual, batch.earlier
        if self._rows is None:
            self._rows, self._left, self._residual = rows, solution.left, residual
        else:
            asked = residual + self._already(rows)
            first, whole = self._rows.num_facts, concatenate_rows(self._rows, rows)
            left = solution.left
            if earlier is None:  # the solution is for the new facts only
                left = _spread(left, rows, whole, first, solution.per_row)
            if self._left is not None:
                left = left + _spread(self._left, self._rows, whole, 0, solution.per_row)
            self._left = left
            kept = self._residual if earlier is None else self._residual + earlier
            self._rows, self._residual = whole, torch.cat([kept, asked])
        self._right = _joined(self._right, batch.right)
        self._per_row, self._ridge = solution.per_row, solution.ridge

    def delta(self) -> LayerDelta:
        """The sum as a delta, as it goes into a patch."""
        assert self._rows is not None
        assert self._left is not None
        rows, own = self._multiplied(), self._rows
        if self._protected:
            own = select_rows(self._rows, torch.arange(self._protected, self._rows.num_facts))
        return LayerDelta.from_solution(
            self._left,
            rows,
            fact_rows=own if rows is not self._rows or self._protected else None,
            residual=self._residual[self._protected :],
            ridge=self._ridge,
        )

    def _already(self, rows: Rows) -> Tensor:
        """(T, d_m) what the delta so far adds for new facts, whose residuals were measured with it on."""
        assert self._rows is not None
        if self._left is None:
            return torch.zeros(rows.num_facts, self._residual.shape[1])
        return edit_response(self._left, self._multiplied(), rows).float()

    def _multiplied(self) -> Rows:
        """The rows of all facts so far, as they are multiplied with the left factors."""
        assert self._rows is not None
        if self._right is not None:
            return self._right
        return one_left_per_row(self._rows) if self._per_row else self._rows


class LayerEdit(GrowingSolution):
    """One layer's growing delta, on the model from `add` to `off`."""

    def __init__(self, base: Base, layer: int, right_rows: RightRows | None = None) -> None:
        super().__init__(layer, right_rows)
        self._place = base.layer(layer)
        self._handle: Handle | None = None

    def add(self, batch: LayerBatch, solution: LayerSolution) -> None:
        """Add the solution of the batch's problem, and put the sum on the model."""
        super().add(batch, solution)
        self.off()
        self._handle = attach_delta(self._place, self.delta())

    def off(self) -> None:
        """Take the delta off the model; it is kept here."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _joined(known: Rows | None, fresh: Rows | None) -> Rows | None:
    """The right rows of earlier facts and then of new ones; None where they are the facts' own."""
    return fresh if known is None or fresh is None else concatenate_rows(known, fresh)


def _spread(left: Tensor, rows: Rows, whole: Rows, first: int, per_row: bool) -> Tensor:
    """A left factor of `rows` as one of `whole`, in which the facts of `rows` are numbered from `first`."""
    if per_row:
        place = rows.expert * whole.num_facts + rows.fact + first  # (nnz,)
        at = torch.searchsorted(whole.expert * whole.num_facts + whole.fact, place)
        spread = left.new_zeros(len(whole.value), left.shape[1])  # (nnz', d_m)
    else:
        at = torch.arange(rows.num_facts) + first
        spread = left.new_zeros(whole.num_facts, left.shape[1])  # (T', d_m)
    spread[at] = left
    return spread
