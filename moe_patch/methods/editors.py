"""Bringing one batch's target values about in the edit layers: the shared part, and MEMIT's way."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from pydantic import JsonValue
from torch import Tensor

from moe_patch.base.capture import ExpertCall
from moe_patch.base.gain import asked_gain
from moe_patch.base.keys import first_tokens, key_rows, measure_keys, project_rows
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt
from moe_patch.errors import TargetError
from moe_patch.methods.edit_rules import EditRules, strongest_experts
from moe_patch.methods.layer_edit import LayerEdit, LayerProblem, LayerSolution, LayerSolver, RightRows
from moe_patch.methods.room import Room
from moe_patch.patch import LayerDelta
from moe_patch.patch.rows import Rows
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite
from moe_patch.solve.nullspace import NullSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class EditRequest:
    """What the residual stream after the last edit layer should become for one batch."""

    facts: Sequence[Fact]  # the T new facts
    moved: Sequence[int]  # numbers of earlier facts whose values change together with a new fact's
    earlier: int  # how many earlier facts there are
    prompts: Sequence[Prompt]  # of the new and then the moved facts, each in every context
    contexts: int  # prompts per fact; the one without context is the first
    value: Tensor  # (T + moved, d_m) z* of new and moved facts
    prompts_per_pass: int
    progress: Progress | None = None

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage within the batch."""
        if self.progress is not None:
            self.progress(stage, done, total)


class DeltaEditor(ABC):
    """The deltas of all edit layers, which grow batch by batch and are on the model from `edit` to `off`."""

    def __init__(
        self,
        base: Base,
        layers: Sequence[int],
        projections: Mapping[int, NullSpace],
        rules: EditRules,
    ) -> None:
        self.layers = sorted(layers)
        self.rules = rules
        self.objectives: dict[int, list[tuple[float, ...]]] = {}  # by layer; only from iterative solvers
        self.room = Room()
        self._base, self._projections = base, projections
        self._gains = {layer: asked_gain(base, layer) for layer in self.solved}

    @property
    def last(self) -> int:
        """The layer after which target values are set."""
        return self.layers[-1]

    @property
    def solved(self) -> list[int]:
        """The layers at which a problem is solved: all of them, unless a method solves fewer."""
        return self.layers

    @property
    def moves_earlier(self) -> bool:
        """Whether earlier facts about a new fact's subject are given a new value together with it."""
        return self.rules.protect_earlier and self.rules.move_earlier

    @abstractmethod
    def protect(self, rows: Mapping[int, Rows]) -> None:
        """Protect the facts of the stack below, with these rows by layer, like those of an earlier batch."""

    @abstractmethod
    def edit(self, request: EditRequest) -> None:
        """Change the layers' deltas so that the residual stream takes the requested values.

        Raises:
            TargetError: all experts that the facts reach in a layer are protected.
            NumericalError: a key, the residual stream or a delta is not finite.
        """

    @abstractmethod
    def off(self) -> None:
        """Take all deltas off the model; the editor keeps them."""

    @abstractmethod
    def deltas(self) -> dict[int, LayerDelta]:
        """The deltas by layer, as they go into a patch."""

    def findings(self) -> dict[str, JsonValue]:
        """Entries for the patch's hyper-parameters: `objectives` by layer and batch, if there are any."""
        found = {
            str(layer): [list(values) for values in batches] for layer, batches in self.objectives.items()
        }
        return {"objectives": cast("JsonValue", found)} if found else {}

    def _missing(self, request: EditRequest, present: Tensor, layer: int) -> Tensor:
        """(T + moved, d_m) what the experts of `layer` must add so that the stream takes its new values.

        Args:
            present: (N, d_m) the stream that the value is for, at every prompt's edited token.
        """
        return (request.value - present[:: request.contexts]) / self._gains[layer]

    def _rows(self, call: ExpertCall, layer: int, request: EditRequest) -> Rows:
        """The new facts' rows at a layer."""
        count = len(request.facts)
        experts = self._base.layer(layer).num_experts
        own = first_tokens(call, count * request.contexts)
        if self.rules.experts_per_fact is not None:
            own = strongest_experts(own, self.rules.experts_per_fact, experts)
        keys = key_rows(own, experts, count, None)
        if layer not in self._projections:
            return keys
        projected = project_rows(keys, self._projections[layer])
        self.room.measure(layer, keys, projected, request.facts)
        return projected

    def _change_of_earlier(self, share: Tensor, request: EditRequest) -> Tensor | None:
        """(T_earlier, d_m) how much earlier facts' outputs should change; None if they are not protected."""
        if not self.rules.protect_earlier:
            return None
        change = share.new_zeros(request.earlier, share.shape[1])
        change[list(request.moved)] = share[len(request.facts) :]
        return change

    def _solve(self, solver: LayerSolver, problem: LayerProblem) -> LayerSolution:
        """The solver's solution; its objectives are recorded."""
        solution = solver(problem)
        check_finite(solution.left, "the deltas", f"of layer {problem.layer}")
        if solution.objectives:
            values = " -> ".join(map("{:.6g}".format, solution.objectives))
            logger.info("layer %d: objective %s", problem.layer, values)
            self.objectives.setdefault(problem.layer, []).append(solution.objectives)
        return solution


class LayerByLayer(DeltaEditor):
    """MEMIT's way (arXiv 2210.07229, section 4.3): one layer after the other adds its share.

    From the lowest edit layer l up, the residual stream at L is measured with all lower layers already
    edited, and layer l is solved for its share of what is missing, r = (z* - h^L) / (layers left). The rules
    may say otherwise of both.

    Args:
        base: the model.
        layers: the edit layers.
        solver: of one layer's problem.
        projections: of the keys, by layer; empty if they are not projected.
        rules: see `EditRules`.
        right_rows: by layer, what turns the facts' rows into those that are multiplied with the left factors;
            without it, they are the facts' own.
    """

    def __init__(
        self,
        base: Base,
        layers: Sequence[int],
        solver: LayerSolver,
        projections: Mapping[int, NullSpace],
        rules: EditRules,
        right_rows: Mapping[int, RightRows] | None = None,
    ) -> None:
        super().__init__(base, layers, projections, rules)
        self._solver = solver
        right = right_rows or {}
        self._edits = {layer: LayerEdit(base, layer, right.get(layer)) for layer in self.layers}

    def protect(self, rows: Mapping[int, Rows]) -> None:
        """Protect the facts at every layer."""
        for layer, edit in self._edits.items():
            edit.protect(rows[layer], self._base.layer(layer).d_model)

    def edit(self, request: EditRequest) -> None:
        """Solve every layer in turn for its share."""
        count = len(request.facts)
        for number, layer in enumerate(self.layers):
            at = layer if self.rules.residual_at == "own" else self.last
            calls, present = measure_keys(self._base, request.prompts, [layer], at, request.prompts_per_pass)
            request.tell("keys", number + 1, len(self.layers))
            missing = self._missing(request, present, layer)  # (T + moved, d_m)
            share = missing / self.rules.divisor(self.layers, layer)
            earlier = self._change_of_earlier(share, request)
            rows = self._rows(calls[layer], layer, request)
            check_rows(rows, layer, request.facts)
            edit = self._edits[layer]
            batch = edit.batch(rows, share[:count], earlier)
            edit.add(batch, self._solve(self._solver, edit.problem(batch)))
            request.tell("solve", number + 1, len(self.layers))

    def off(self) -> None:
        """Take all deltas off the model."""
        for edit in self._edits.values():
            edit.off()

    def deltas(self) -> dict[int, LayerDelta]:
        """The deltas by layer, as they go into a patch."""
        return {layer: edit.delta() for layer, edit in self._edits.items()}


def check_rows(rows: Rows, layer: int, facts: Sequence[Fact]) -> None:
    """Check that a layer can be edited for the facts; a warning names those for which it cannot.

    Raises:
        TargetError: it cannot be edited for any of them.
    """
    reached = torch.bincount(rows.fact, minlength=rows.num_facts) > 0  # (T,)
    if not bool(reached.any()):
        raise TargetError(
            f"layer {layer}: all experts that the facts reach are protected, so nothing can be edited: give "
            "more preserved text, choose --unseen edit, or leave the layer out"
        )
    if missed := [fact.id for fact, some in zip(facts, reached.tolist(), strict=True) if not some]:
        logger.warning(
            "layer %d: all experts that these facts reach are protected, so the layer is not edited for: %s",
            layer,
            ", ".join(missed),
        )
