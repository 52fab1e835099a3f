"""What a patch adds to the experts of one layer, and the tensors of a file that hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from moe_patch.errors import SolveError
from moe_patch.patch.rows import Rows


@dataclass(frozen=True, slots=True, eq=False)
class LayerDelta:
    """What a patch adds to the experts of one layer, and what solving it again needs.

    The delta of expert j is the sum of outer(left[rows.fact[i]], rows.value[i]) over the rows i with
    rows.expert[i] == j, of shape (d_m, d_k). Where the facts' own rows are these rows, both fields hold one
    object.

    Raises:
        SolveError: `rows` is not numbered by the left factors.
    """

    left: Tensor  # (R, d_m) fp32; R is the number of facts, or of rows if each row has a left factor
    rows: Rows  # (nnz, d_k) fp32, multiplied with `left`; `rows.fact` is a row index of `left`
    fact_rows: Rows  # the own rows g k~ of T facts, for solving again, protecting and dropping facts
    residual: Tensor | None  # (T, d_m) fp32: what the layer was asked to add for each fact
    ridge: float  # lambda, absolute

    def __post_init__(self) -> None:
        if self.rows.num_facts != len(self.left):
            raise SolveError(
                f"a delta with {len(self.left)} left factors needs rows that count as many; these "
                f"count {self.rows.num_facts}"
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
    ) -> LayerDelta:
        """Make a delta from a solution in any floating dtype, converted to the fp32 of patches.

        Args:
            left: (R, d_m).
            rows: multiplied with `left`; `rows.fact` is a row index of `left`.
            residual: (T, d_m).
            ridge: absolute lambda.
            fact_rows: the facts' own rows; None if they are `rows`.
        """
        rows = rows.float()
        return cls(
            left=left.float(),
            rows=rows,
            fact_rows=rows if fact_rows is None else fact_rows.float(),
            residual=None if residual is None else residual.float(),
            ridge=ridge,
        )

    @property
    def shares_rows(self) -> bool:
        """Whether the delta is made of its facts' own rows. A file then stores them once."""
        return self.fact_rows is self.rows

    def experts(self) -> list[int]:
        """The experts that this changes, in ascending order."""
        return self.rows.experts()

    def rank(self, expert: int) -> int:
        """A rank at which the expert's delta is exact: its number of rows, but at most its smaller side."""
        right, _ = self.rows.of(expert)
        return min(len(right), self.left.shape[1], right.shape[1])


def delta_tensors(layer: int, delta: LayerDelta) -> dict[str, Tensor]:
    """The tensors of a layer's delta, by their names in a patch file."""
    named = {
        f"delta.{layer}.left": delta.left,
        f"delta.{layer}.right": delta.rows.value,
        f"delta.{layer}.expert": delta.rows.expert.int(),
        f"delta.{layer}.fact": delta.rows.fact.int(),
    }
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
    )


def _rows(tensors: Mapping[str, Tensor], group: str, value: str, num_facts: int) -> Rows:
    expert, fact = tensors[f"{group}.expert"].long(), tensors[f"{group}.fact"].long()  # int32 in the file
    return Rows(tensors[f"{group}.{value}"], expert, fact, num_facts)
