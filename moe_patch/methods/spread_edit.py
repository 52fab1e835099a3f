"""Solve once at the last edit layer, and spread the solution over the layers below (MoTE, arXiv 2605.16686).

One forward pass gives the facts' keys at every edit layer, and what is missing in the residual stream at L.
Only layer L is solved. It gets the whole solution, and the edit layers below get a half, a third and so on.
(The paper's 1 / (L - l + 1) is the same where edit layers follow one another, and is an option.) Nothing is
measured again. How a layer uses its share depends on the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.capture import attach_delta
from moe_patch.base.keys import measure_keys
from moe_patch.base.model import Base
from moe_patch.errors import ModelError
from moe_patch.methods.edit_rules import EditRules
from moe_patch.methods.editors import DeltaEditor, EditRequest, check_rows
from moe_patch.methods.layer_edit import GrowingSolution, LayerProblem, LayerSolution
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows, concatenate_rows
from moe_patch.solve.algebra import edit_response
from moe_patch.solve.nullspace import NullSpace


class Spreader(Protocol):
    """The part that methods differ in. It may solve in other coordinates than those of keys and outputs."""

    def rows(self, rows: Rows) -> Rows:
        """The facts' rows at L in the coordinates that it solves in."""

    def residual(self, residual: Tensor) -> Tensor:
        """Residuals (T, d_m) at L in those coordinates."""

    def reached(self, residual: Tensor) -> Tensor:
        """Residuals in those coordinates as vectors (T, d_m) at L: the part that can be reached."""

    def __call__(self, problem: LayerProblem) -> LayerSolution:
        """Solve a problem in those coordinates."""

    def spread(self, solution: LayerDelta, layer: int) -> tuple[Tensor, Rows]:
        """A layer's part of a solution, not yet divided: left (R, d_m), and the rows that it belongs to."""

    def findings(self) -> dict[str, JsonValue]:
        """Entries for the patch's hyper-parameters."""


class SpreadEditor(DeltaEditor):
    """The editor of methods that solve once."""

    def __init__(
        self,
        base: Base,
        layers: Sequence[int],
        spreader: Spreader,
        projections: Mapping[int, NullSpace],
        rules: EditRules,
    ) -> None:
        super().__init__(base, layers, projections, rules)
        check_one_shape(base, self.layers)
        self._spreader = spreader
        self._solution = GrowingSolution(self.last)  # in the spreader's coordinates
        self._keys: dict[int, Rows] = {}  # by layer, the rows of the facts
        self._deltas: dict[int, LayerDelta] = {}
        self._live = ExitStack()

    @property
    def solved(self) -> list[int]:
        """Only the last edit layer."""
        return [self.last]

    def protect(self, rows: Mapping[int, Rows]) -> None:
        """Protect the facts at the last layer, the only one that is solved."""
        own = self._spreader.rows(rows[self.last])
        none = torch.zeros(0, self._base.layer(self.last).d_model)
        self._solution.protect(own, self._spreader.residual(none).shape[1])

    def edit(self, request: EditRequest) -> None:
        """Solve at the last layer, and give every layer its part of the whole solution so far."""
        calls, present = measure_keys(
            self._base, request.prompts, self.layers, self.last, request.prompts_per_pass
        )
        request.tell("keys", len(self.layers), len(self.layers))
        rows = {layer: self._rows(calls[layer], layer, request) for layer in self.layers}
        check_rows(rows[self.last], self.last, request.facts)
        missing = self._spreader.residual(self._missing(request, present, self.last))  # (T + moved, r)
        earlier = self._change_of_earlier(missing, request)
        own, asked = self._spreader.rows(rows[self.last]), missing[: len(request.facts)]
        batch = self._solution.batch(own, asked, earlier)
        self._solution.add(batch, self._solve(self._spreader, self._solution.problem(batch)))
        self.off()
        for number, layer in enumerate(self.layers):
            known = self._keys.get(layer)
            self._keys[layer] = rows[layer] if known is None else concatenate_rows(known, rows[layer])
            self._deltas[layer] = self._delta(layer)
            if self._deltas[layer].experts():
                self._live.enter_context(attach_delta(self._base.layer(layer), self._deltas[layer]))
            request.tell("solve", number + 1, len(self.layers))

    def off(self) -> None:
        """Take all deltas off the model."""
        self._live.close()

    def deltas(self) -> dict[int, LayerDelta]:
        """The deltas by layer, as they go into a patch.

        The residual of L is what its delta should add for each fact. The residual of a layer below, which has
        no target, is what its part does add.
        """
        return dict(self._deltas)

    def findings(self) -> dict[str, JsonValue]:
        """Entries of the spreader and of all editors, and `solved_at`: the layer that was solved."""
        return super().findings() | self._spreader.findings() | {"solved_at": self.last}

    def _delta(self, layer: int) -> LayerDelta:
        solution = self._solution.delta()
        left, right = self._spreader.spread(solution, layer)
        left = left / self.rules.divisor(self.layers, layer)
        keys = self._keys[layer]
        residual = edit_response(left, right, keys)  # (T, d_m)
        if layer == self.last:
            assert solution.residual is not None
            residual = self._spreader.reached(solution.residual)
        fact_rows = None if _same(right, keys) else keys
        return LayerDelta.from_solution(
            left, right, fact_rows=fact_rows, residual=residual, ridge=solution.ridge
        )


def check_one_shape(base: Base, layers: Sequence[int]) -> None:
    """Check that a solution of one layer fits the others.

    Raises:
        ModelError: the layers have different numbers of experts, or experts of different sizes.
    """
    shapes = {base.layer(layer).shape for layer in layers}
    if len(shapes) > 1:
        raise ModelError(
            f"layers {', '.join(map(str, layers))} differ in the number or sizes of their experts, so one "
            "solution cannot be spread over them: choose layers of the same shape"
        )


def _same(first: Rows, second: Rows) -> bool:
    """Whether the rows are the same; a patch then holds them only once."""
    return (
        first.num_facts == second.num_facts
        and torch.equal(first.expert, second.expert)
        and torch.equal(first.fact, second.fact)
        and torch.equal(first.value, second.value)
    )
