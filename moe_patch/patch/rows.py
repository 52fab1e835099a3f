"""Keys of facts by expert, as sparse rows: the form that patches store and solves start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_patch.errors import SolveError


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Psi of one layer as a sparse stack: row i is g k~ of fact `fact[i]` at expert `expert[i]`.

    Rows are sorted by expert, then by fact. A fact has exactly one row at each expert that it reaches.

    Raises:
        SolveError: shapes do not fit, a fact is outside 0..num_facts-1, or rows are out of order or repeated.
    """

    value: Tensor  # (nnz, d_k)
    expert: Tensor  # (nnz,) int64
    fact: Tensor  # (nnz,) int64, below num_facts
    num_facts: int

    def __post_init__(self) -> None:
        nnz = len(self.value)
        if self.value.ndim != 2 or self.expert.shape != (nnz,) or self.fact.shape != (nnz,):
            raise SolveError(
                "rows need a value (nnz, d_k), an expert (nnz,) and a fact (nnz,); got "
                f"{tuple(self.value.shape)}, {tuple(self.expert.shape)} and {tuple(self.fact.shape)}"
            )
        if nnz and not 0 <= int(self.fact.min()) <= int(self.fact.max()) < self.num_facts:
            raise SolveError(f"a row names a fact outside 0..{self.num_facts - 1}")
        place = self.expert * self.num_facts + self.fact  # (nnz,)
        if bool((place[1:] <= place[:-1]).any()):
            raise SolveError(
                "rows are out of order, or a fact has two rows at one expert: sum these, then use sort_rows"
            )

    def float(self) -> Rows:
        """The same rows with values in fp32; returns itself if they already are."""
        return self if self.value.dtype == torch.float32 else replace(self, value=self.value.float())

    def of(self, expert: int) -> tuple[Tensor, Tensor]:
        """One expert's rows (n_e, d_k) and their facts (n_e,); both are empty if no fact reaches it."""
        bounds = torch.tensor([expert, expert + 1], dtype=self.expert.dtype, device=self.expert.device)
        start, stop = torch.searchsorted(self.expert, bounds).tolist()
        return self.value[start:stop], self.fact[start:stop]

    def experts(self) -> list[int]:
        """The experts that at least one fact reaches, ascending."""
        return [int(expert) for expert in torch.unique_consecutive(self.expert)]

    def blocks(self) -> Iterator[tuple[int, slice]]:
        """Each expert that a fact reaches, ascending, with the slice of its rows."""
        experts, counts = torch.unique_consecutive(self.expert, return_counts=True)
        start = 0
        for expert, count in zip(experts.tolist(), counts.tolist(), strict=True):
            yield expert, slice(start, start + count)
            start += count


def sort_rows(value: Tensor, expert: Tensor, fact: Tensor, num_facts: int) -> Rows:
    """Rows from value (nnz, d_k), expert (nnz,) and fact (nnz,) given in any order.

    Raises:
        SolveError: shapes do not fit, a fact is outside 0..num_facts-1, or has two rows at one expert.
    """
    expert, fact = expert.long(), fact.long()
    order = torch.argsort(expert * num_facts + fact, stable=True)  # (nnz,)
    return Rows(value[order], expert[order], fact[order], num_facts)


def concatenate_rows(first: Rows, second: Rows) -> Rows:
    """The rows of both; the second's facts are numbered after the first's."""
    return sort_rows(
        torch.cat([first.value, second.value]),
        torch.cat([first.expert, second.expert]),
        torch.cat([first.fact, second.fact + first.num_facts]),
        first.num_facts + second.num_facts,
    )


def select_rows(rows: Rows, facts: Tensor) -> Rows:
    """The rows of some facts, renumbered 0..n-1 in the order of `facts` (n,), which are distinct indices.

    Raises:
        SolveError: a fact is named twice or does not exist.
    """
    facts = facts.long()
    if len(facts) and not 0 <= int(facts.min()) <= int(facts.max()) < rows.num_facts:
        raise SolveError(f"cannot select facts outside 0..{rows.num_facts - 1}")
    if len(torch.unique(facts)) != len(facts):
        raise SolveError("cannot select a fact twice")
    renumbered = torch.full((rows.num_facts,), -1, dtype=torch.int64, device=rows.fact.device)  # (T,)
    renumbered[facts] = torch.arange(len(facts), device=rows.fact.device)
    kept = renumbered[rows.fact] >= 0  # (nnz,)
    return sort_rows(rows.value[kept], rows.expert[kept], renumbered[rows.fact[kept]], len(facts))


def row_energy(rows: Rows) -> Tensor:
    """||g k~||^2 of each fact over all experts, (T,) fp64: the diagonal of its kernel."""
    square = rows.value.double().square().sum(1)  # (nnz,)
    return square.new_zeros(rows.num_facts).index_add(0, rows.fact, square)


def one_left_per_row(rows: Rows) -> Rows:
    """The same rows with one fact number for each, for solutions with one left factor per row."""
    nnz = len(rows.value)
    return Rows(rows.value, rows.expert, torch.arange(nnz, device=rows.fact.device), nnz)
