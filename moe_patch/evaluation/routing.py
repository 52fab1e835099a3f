"""How much a patch changes routing: which experts a token reaches, and the router's probabilities.

Routing similarity is the Jaccard similarity of a token's top-K expert sets before and after (MoEEdit, ICLR
2026). KL(before || after) compares the router's distributions over all experts. An edit changes the residual
stream only above its lowest layer, so routing cannot change up to there: those layers are reported, but left
out of means. The layers above are also averaged by windows, quarters of them, since what an edit moves may
die away or build up with depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from moe_patch.base.capture import ExpertCall, capture_routing
from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.router_scores import gate_function, routing_distribution
from moe_patch.evaluation.scoring import right_padded, split_batches
from moe_patch.solve.finite import check_finite

Routing = Mapping[int, ExpertCall]
"""The routing of some prompts: by layer, all tokens without padding, in the order of the prompts."""


@dataclass(frozen=True, slots=True)
class LayerShift:
    """The change of one layer's routing."""

    layer: int
    similarity: float  # percent
    divergence: float | None  # nats; None if the router gives no scores over all experts
    tokens: int  # how many were compared


@dataclass(frozen=True, slots=True)
class Window:
    """The change of routing in a run of layers, as the mean over those that have experts."""

    name: str  # such as "2nd quarter"
    first: int  # number of its first layer with experts
    last: int  # and of its last
    similarity: float  # percent
    divergence: float | None  # nats


WINDOWS = ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter")


@dataclass(frozen=True, slots=True)
class RoutingShift:
    """The change of routing on some prompts, by MoE layer; means are over layers above the lowest edit."""

    layers: tuple[LayerShift, ...]
    lowest_edited: int  # number of the layer

    @property
    def similarity(self) -> float | None:
        """Mean routing similarity in percent; None if no MoE layer is above the lowest edit."""
        return _mean([shift.similarity for shift in self._movable])

    @property
    def divergence(self) -> float | None:
        """Mean KL divergence in nats over the layers that have one; None if none has."""
        return _mean([shift.divergence for shift in self._movable if shift.divergence is not None])

    @property
    def windows(self) -> tuple[Window, ...]:
        """The quarters of the MoE layers above the lowest edit, the lowest first; fewer of three layers."""
        movable = self._movable
        count = min(len(WINDOWS), len(movable))
        bounds = [len(movable) * place // count for place in range(count + 1)] if count else [0]
        runs = [movable[start:end] for start, end in pairwise(bounds)]
        names = (
            WINDOWS if count == len(WINDOWS) else [f"part {place + 1} of {count}" for place in range(count)]
        )
        return tuple(_window(name, run) for name, run in zip(names, runs, strict=True))

    @property
    def _movable(self) -> list[LayerShift]:
        return [shift for shift in self.layers if shift.layer > self.lowest_edited]


def record_routing(
    base: Base, prompts: Sequence[str], *, batch_size: int = 64, chat: bool = False
) -> Routing:
    """Record the experts that every token of the prompts is routed to, on the CPU, the longest prompts first.

    Memory: at most 12 K + 4 E bytes for each token and MoE layer.

    Raises:
        EvaluationError: the batch size is below 1.
        NumericalError: a gate or a router's score is not finite.
        PromptError: as for `Reader.read_prompt`.
    """
    rows = [base.reader.read_prompt(prompt, chat=chat) for prompt in prompts]
    rows.sort(key=len, reverse=True)  # rows of like lengths have little padding
    parts: dict[int, list[ExpertCall]] = {index: [] for index in base.layers}
    for batch in split_batches(rows, batch_size):
        for index, call in capture_routing(base, *right_padded(base, batch)).items():
            parts[index].append(call)
    return {index: _joined(calls) for index, calls in parts.items()}


def compare_routing(before: Routing, after: Routing, lowest_edited: int) -> RoutingShift:
    """The change of routing between two recordings of the same prompts.

    Raises:
        EvaluationError: the recordings have different layers or numbers of tokens.
        NumericalError: a divergence is not finite.
    """
    if before.keys() != after.keys():
        raise EvaluationError(
            "routing before and after was recorded in different layers: record both with the same base"
        )
    shifts = [_layer_shift(index, call, after[index]) for index, call in sorted(before.items())]
    return RoutingShift(tuple(shifts), lowest_edited)


def jaccard_similarity(before: Tensor, after: Tensor) -> Tensor:
    """(N,) the Jaccard similarity of expert sets (N, K) before and after; a row has no expert twice."""
    common = (before[:, :, None] == after[:, None, :]).sum(dim=(1, 2))  # (N,)
    return common / (before.shape[1] + after.shape[1] - common)


def _layer_shift(index: int, before: ExpertCall, after: ExpertCall) -> LayerShift:
    tokens = len(before.experts)
    if tokens == 0 or len(after.experts) != tokens:
        raise EvaluationError(f"layer {index} routed {tokens} tokens before and {len(after.experts)} after")
    divergence = None
    if before.scores is not None and after.scores is not None:
        function = gate_function(before)  # a patch does not change it
        first = routing_distribution(before.scores, function)  # (N, E)
        second = routing_distribution(after.scores, function)  # (N, E)
        apart = torch.where(first > -torch.inf, first.exp() * (first - second), 0.0).sum(-1)  # (N,)
        check_finite(apart, "the divergences of routing", f"at layer {index}")
        divergence = float(apart.mean().clamp_min(0))
    similarity = 100 * float(jaccard_similarity(before.experts, after.experts).double().mean())
    return LayerShift(index, similarity, divergence, tokens)


def _window(name: str, shifts: Sequence[LayerShift]) -> Window:
    return Window(
        name,
        shifts[0].layer,
        shifts[-1].layer,
        sum(shift.similarity for shift in shifts) / len(shifts),
        _mean([shift.divergence for shift in shifts if shift.divergence is not None]),
    )


def _joined(calls: Sequence[ExpertCall]) -> ExpertCall:
    scores = [call.scores.cpu() for call in calls if call.scores is not None]
    return ExpertCall(
        keys=None,
        gates=torch.cat([call.gates.cpu() for call in calls]),
        experts=torch.cat([call.experts.cpu() for call in calls]),
        scores=torch.cat(scores) if len(scores) == len(calls) else None,
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
