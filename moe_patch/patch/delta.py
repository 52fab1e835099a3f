"""What a patch adds to the experts of one layer, and the tensors of a file that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.dense import Dense
from moe_patch.patch.rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class LayerDelta:
    """What a patch adds to the experts of one layer, and what solving it again needs.

    The delta of expert j is the sum of outer(left[rows.fact[i]], rows.value[i]) over the rows i with
    rows.expert[i] == j, of shape (d_m, d_k), and of its matrix in `dense` if it has one. Where the facts' own
    rows are these rows, both fields hold one object.

    Raises:
        SolveError: `rows` is not numbered by the left factors, or `dense` has other widths.
    """

    left: Tensor  # (R, d_m) fp32; R is the number of facts, or of rows if each row has a left factor
    rows: Rows  # (nnz, d_k) fp32, multiplied with `left`; `rows.fact` is a row index of `left`
    fact_rows: Rows  # the own rows g k~ of T facts, for solving again, protecting and dropping facts
    residual: Tensor | None  # (T, d_m) fp32: what the layer was asked to add for each fact
    ridge: float  # lambda, absolute; 0 where nothing was solved
    dense: Dense | None = None  # (n, d_m, d_k) fp32: changes that no few rows can express

    def __post_init__(self) -> None:
        if self.rows.num_facts != len(self.left):
            raise SolveError(
                f"a delta with {len(self.left)} left factors needs rows that count as many; these "
                f"count {self.rows.num_facts}"
            )
        if self.dense is not None and self.dense.value.shape[1:] != self.widths:
            raise SolveError(
                f"dense changes of shape {tuple(self.dense.value.shape)} do not fit (d_m, d_k) {self.widths}"
            )

    @classmethod
    def from_solution(
        cls,
        left: Tensor,
        rows: Rows,
        *,
        residual: Tensor | None,
        ridge: float,
        fact_rows: Rows | None = None,
        dense: Dense | None = None,
    ) -> LayerDelta:
        """Make a delta from a solution in any floating dtype, converted to the fp32 of patches.

        Args:
            left: (R, d_m).
            rows: multiplied with `left`; `rows.fact` is a row index of `left`.
            residual: (T, d_m).
            ridge: absolute lambda.
            fact_rows: the facts' own rows; None if they are `rows`.
            dense: whole matrices that are added to experts.
        """
        rows = rows.float()
        return cls(
            left=left.float(),
            rows=rows,
            fact_rows=rows if fact_rows is None else fact_rows.float(),
            residual=None if residual is None else residual.float(),
            ridge=ridge,
            dense=dense,
        )

    @classmethod
    def whole(cls, dense: Dense | None, fact_rows: Rows, d_model: int) -> LayerDelta:
        """A delta of whole matrices and no factors, with the facts' own rows for what asks about facts."""
        none = torch.zeros(0, dtype=torch.int64)
        nothing = Rows(torch.zeros(0, fact_rows.value.shape[1]), none, none, 0)
        return cls.from_solution(
            torch.zeros(0, d_model), nothing, residual=None, ridge=0.0, fact_rows=fact_rows, dense=dense
        )

    @property
    def widths(self) -> tuple[int, int]:
        """(d_m, d_k)."""
        return self.left.shape[1], self.rows.value.shape[1]

    @property
    def shares_rows(self) -> bool:
        """Whether the delta is made of its facts' own rows. A file then stores them once."""
        return self.fact_rows is self.rows

    def experts(self) -> list[int]:
        """The experts that this changes, in ascending order."""
        low_rank = self.rows.experts()
        return low_rank if self.dense is None else sorted({*low_rank, *self.dense.experts()})

    def touches(self, expert: int) -> bool:
        """Whether this changes an expert."""
        whole = self.dense is not None and self.dense.of(expert) is not None
        return whole or expert in self.rows.expert

    def matrix(self, expert: int) -> Tensor:
        """What is added to an expert, as one matrix (d_m, d_k) fp32."""
        right, fact = self.rows.of(expert)  # (n, d_k) and (n,)
        total = self.left[fact].T @ right
        whole = None if self.dense is None else self.dense.of(expert)
        return total if whole is None else total + whole

    def rank(self, expert: int) -> int:
        """A rank at which the expert's delta is exact: its number of rows, but at most its smaller side."""
        if self.dense is not None and self.dense.of(expert) is not None:
            return min(self.widths)
        right, _ = self.rows.of(expert)
        return min(len(right), *self.widths)


def delta_tensors(layer: int, delta: LayerDelta) -> dict[str, Tensor]:
    """The tensors of a layer's delta, by their names in a patch file."""
    named = {
        f"delta.{layer}.left": delta.left,
        f"delta.{layer}.right": delta.rows.value,
        f"delta.{layer}.expert": delta.rows.expert.int(),
        f"delta.{layer}.fact": delta.rows.fact.int(),
    }
    if delta.dense is not None:
        named[f"delta.{layer}.dense"] = delta.dense.value
        named[f"delta.{layer}.dense_expert"] = delta.dense.expert.int()
    if delta.residual is not None:
        named[f"solve.{layer}.residual"] = delta.residual
    if not delta.shares_rows:
        named[f"solve.{layer}.key"] = delta.fact_rows.value
        named[f"solve.{layer}.expert"] = delta.fact_rows.expert.int()
        named[f"solve.{layer}.fact"] = delta.fact_rows.fact.int()
    return named


def delta_from(layer: int, tensors: Mapping[str, Tensor], num_facts: int, ridge: float) -> LayerDelta:
    """The delta of a layer, from the tensors of a patch file. The caller has checked that all are there."""
    left, own = tensors[f"delta.{layer}.left"], f"solve.{layer}"
    return LayerDelta.from_solution(
        left,
        _rows(tensors, f"delta.{layer}", "right", len(left)),
        fact_rows=_rows(tensors, own, "key", num_facts) if f"{own}.key" in tensors else None,
        residual=tensors.get(f"solve.{layer}.residual"),
        ridge=ridge,
        dense=_dense(tensors, f"delta.{layer}.dense"),
    )


def _dense(tensors: Mapping[str, Tensor], name: str) -> Dense | None:
    if name not in tensors:
        return None
    return Dense(tensors[name], tensors[f"{name}_expert"].long())


def _rows(tensors: Mapping[str, Tensor], group: str, value: str, num_facts: int) -> Rows:
    expert, fact = tensors[f"{group}.expert"].long(), tensors[f"{group}.fact"].long()  # int32 in the file
    return Rows(tensors[f"{group}.{value}"], expert, fact, num_facts)
