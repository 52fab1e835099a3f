"""UltraEdit (TMLR 2026, arXiv 2505.14679): one gradient, one linear solve, and statistics that last.

A batch of facts is run once, forwards and backwards. Each token at each expert that it reaches gives the
key k that enters the down projection and the gradient at what leaves it, g times that of the layer's
experts. What follows is `moe_patch.solve.lifelong`, for each expert by itself. There is no search for
target values, and no preserved text.

The original changes gate and up projections of some models and down projections of others; here it is down
projections of experts. As in the public code, modules of one shape share their statistics: here all experts
of all edit layers. eta is 1e-6 there for keys some thousands wide, and lambda is 1 in the square of the
keys' unit. Both mean something else for an expert's narrow keys, so by default both are free of scale;
`units: published` has the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from moe_patch.base.capture import Handle, attach_delta, observe_experts
from moe_patch.base.gradients import OutputGradient, output_gradients
from moe_patch.base.keys import key_rows, measure_keys
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Batch, FactToken, Prompt, PromptStyle, encode_fact, pad_right, pad_token
from moe_patch.errors import ConfigError
from moe_patch.evaluation.scoring import split_batches
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.delta import edit_layers
from moe_patch.methods.rivals.finished import finished_patch
from moe_patch.methods.spread_edit import check_one_shape
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows, concatenate_rows
from moe_patch.progress import Progress
from moe_patch.solve.algebra import ridge_value
from moe_patch.solve.finite import check_finite
from moe_patch.solve.lifelong import RunningStatistics, one_step, value_shift
from moe_patch.targets.answers import Answers

Tokens = Literal["all", "answer"]


class UltraEditOptions(MethodOptions):
    """Options of UltraEdit."""

    layers: tuple[int, ...] = Field((), description="Decoder layers to edit.")
    batch_size: int | None = Field(100, ge=1, description="Facts of a turn; unset: all of them.")
    learning_rate: float = Field(0.5, gt=0, le=1e30, description="eta.")
    units: Literal["output", "published"] = Field(
        "output",
        description="What eta is a multiple of: the mean size of the experts' output, for a key and a "
        "gradient of deviation 1; or, as published, 1.",
    )
    ridge: float = Field(0.03, gt=0, description="lambda.")
    ridge_relative: bool = Field(True, description="Take lambda as a multiple of the mean square of keys.")
    tokens: Tokens = Field(
        "all",
        description="Tokens that take part: all of prompt and answer, as in the public code; or those at "
        "which the answer is predicted.",
    )
    chat: bool = Field(False, description="Put prompts under the tokenizer's chat template.")
    fact_token: FactToken = Field(
        "last", description="The token whose keys are recorded as the fact's; the edit does not use it."
    )
    facts_per_pass: int = Field(
        10, ge=1, description="Facts in a pass; memory grows with it, results do not change."
    )

    @property
    def style(self) -> PromptStyle:
        """How facts become text."""
        return PromptStyle(self.chat, self.fact_token)


class UltraEdit(Method[UltraEditOptions]):
    """The method, in the registry as `ultraedit`."""

    name = "ultraedit"
    pretty_name = "UltraEdit"
    changes = "down projections of the experts that facts reach, by one gradient"
    rival = True
    Options = UltraEditOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2505.14679"

    def build(
        self, base: Base, facts: Sequence[Fact], options: UltraEditOptions, progress: Progress | None = None
    ) -> Patch:
        """Build a patch.

        Raises:
            ConfigError: there are no facts or no edit layers.
            ModelError: a layer cannot be edited, or the layers' experts differ in size.
            NumericalError: a gradient or a delta is not finite.
            TargetError: a fact's answer has no token of its own.
        """
        if not facts:
            raise ConfigError("there are no facts to build a patch from")
        layers = edit_layers(base, options)
        check_one_shape(base, layers)
        fingerprint = base.fingerprint(layers, progress)
        editor = _Editor(base, layers, options)
        results: list[dict[str, JsonValue]] = []
        size = options.batch_size or len(facts)
        try:
            for start in range(0, len(facts), size):
                losses = editor.turn(facts[start : start + size])
                results += [{"loss_before": round(loss, 4)} for loss in losses]
                if progress is not None:
                    progress("facts edited", min(start + size, len(facts)), len(facts))
        finally:
            editor.off()
        return finished_patch(
            self,
            base,
            facts,
            fingerprint=fingerprint,
            hyperparameters=options.model_dump(mode="json") | {"layers": list(layers)},
            results=results,
            layers=editor.deltas(),
            progress=progress,
        )


@dataclass(frozen=True, slots=True, eq=False)
class GradientPairs:
    """The (token, expert) pairs of one layer that take part in a turn."""

    expert: Tensor  # (n,)
    key: Tensor  # (n, d_k) fp32
    gradient: Tensor  # (n, d_m) fp32, at the expert's own output
    size: float  # mean norm of the experts' output at the tokens

    @classmethod
    def joined(cls, parts: Sequence[GradientPairs]) -> GradientPairs:
        """The pairs of several passes in one, in their order."""
        return cls(
            torch.cat([part.expert for part in parts]),
            torch.cat([part.key for part in parts]),
            torch.cat([part.gradient for part in parts]),
            fmean(part.size for part in parts),
        )


class _Recorder:
    """An observer that keeps the pairs of one layer."""

    def __init__(self) -> None:
        self._heard: list[tuple[Tensor, ...]] = []

    def __call__(self, expert: int, token: Tensor, slot: Tensor, key: Tensor, gate: Tensor) -> None:
        number = torch.full_like(token, expert)
        self._heard.append(tuple(part.detach().cpu() for part in (number, token, key.float(), gate.float())))

    def pairs(self, found: OutputGradient, wanted: Tensor) -> GradientPairs:
        """The pairs, with a layer's gradients, of the tokens that are `wanted` (B*S,) bool."""
        expert, token, key, gate = (torch.cat(column) for column in zip(*self._heard, strict=True))
        kept = wanted[token]  # (n,)
        gradient = gate[kept, None] * found.gradient[token[kept]]  # (n', d_m)
        return GradientPairs(
            expert[kept], key[kept], gradient, float(found.output[wanted].norm(dim=1).mean())
        )


class _Editor:
    """The layers' deltas, which grow turn by turn and are on the model from the first turn to `off`."""

    def __init__(self, base: Base, layers: Sequence[int], options: UltraEditOptions) -> None:
        self._base, self._layers, self._options = base, list(layers), options
        place = base.layer(self._layers[0])
        self._statistics = RunningStatistics(place.d_key + place.d_model)
        self._left: dict[int, Tensor] = {}  # by layer, (nnz, d_m), in the order of the rows
        self._rows: dict[int, Rows] = {}  # by layer, one left factor for each
        self._own: dict[int, Rows] = {}  # by layer, the facts' own rows
        self._ridge: dict[int, float] = {}
        self._live: list[Handle] = []

    def turn(self, facts: Sequence[Fact]) -> list[float]:
        """Edit a batch of facts; returns the losses of their answers before it, in nats a token."""
        options, base = self._options, self._base
        self._record(facts)
        prompts = [encode_fact(base.reader, fact, options.style) for fact in facts]
        losses: list[float] = []
        parts: dict[int, list[GradientPairs]] = {layer: [] for layer in self._layers}
        for some in split_batches(prompts, options.facts_per_pass):
            found, nll = gradient_pairs(base, some, self._layers, options.tokens)
            losses += nll
            for layer, pairs in found.items():
                parts[layer].append(pairs)
        joined = {layer: GradientPairs.joined(some) for layer, some in parts.items()}
        for pairs in joined.values():
            self._statistics.update(torch.cat([pairs.key, pairs.gradient], dim=1))
        for layer, pairs in joined.items():
            self._add(layer, pairs)
        self.off()
        self._live = [attach_delta(base.layer(layer), self._delta(layer)) for layer in self._layers]
        return losses

    def off(self) -> None:
        """Take all deltas off the model; they are kept here."""
        for handle in self._live:
            handle.remove()
        self._live = []

    def deltas(self) -> dict[int, LayerDelta]:
        """The deltas by layer, as they go into a patch."""
        return {layer: self._delta(layer) for layer in self._layers}

    def _add(self, layer: int, pairs: GradientPairs) -> None:
        """Solve every expert of a layer for a turn, and add what it gives to the layer's delta."""
        options = self._options
        rate = options.learning_rate
        if (
            options.units == "output"
        ):  # a normalised key has a square of d_k, a normalised gradient one of d_m
            rate *= pairs.size / (pairs.key.shape[1] * pairs.gradient.shape[1] ** 0.5)
        shift = value_shift(pairs.key, pairs.gradient, self._statistics, rate)  # (n, d_m)
        squares = pairs.key.double().square().sum(1).mean().reshape(1, 1)
        ridge = ridge_value(squares, options.ridge, options.ridge_relative)
        order = pairs.expert.argsort(stable=True)
        expert, key, shift = pairs.expert[order], pairs.key[order], shift[order]
        counts = torch.unique_consecutive(expert, return_counts=True)[1].tolist()
        left = [one_step(*one, ridge) for one in zip(key.split(counts), shift.split(counts), strict=True)]
        solved = torch.cat(left).float()  # (n, d_m)
        check_finite(solved, "the deltas", f"of layer {layer}")
        rows = Rows(key, expert, torch.arange(len(key)), len(key))
        self._keep(layer, rows, solved, ridge)

    def _keep(self, layer: int, rows: Rows, left: Tensor, ridge: float) -> None:
        if layer in self._rows:
            rows = concatenate_rows(self._rows[layer], rows)
            left = torch.cat([self._left[layer], left])
        self._rows[layer], self._left[layer], self._ridge[layer] = rows, left, ridge

    def _record(self, facts: Sequence[Fact]) -> None:
        """Measure the facts' own rows, as they are before their turn."""
        options, base = self._options, self._base
        prompts = [encode_fact(base.reader, fact, options.style, answer=False) for fact in facts]
        calls, _ = measure_keys(base, prompts, self._layers, self._layers[-1], options.facts_per_pass)
        for layer, call in calls.items():
            rows = key_rows(call, base.layer(layer).num_experts, len(facts), None)
            known = self._own.get(layer)
            self._own[layer] = rows if known is None else concatenate_rows(known, rows)

    def _delta(self, layer: int) -> LayerDelta:
        return LayerDelta.from_solution(
            self._left[layer],
            self._rows[layer],
            fact_rows=self._own[layer],
            residual=None,
            ridge=self._ridge[layer],
        )


def gradient_pairs(
    base: Base, prompts: Sequence[Prompt], layers: Sequence[int], tokens: Tokens
) -> tuple[dict[int, GradientPairs], list[float]]:
    """One pass forwards and backwards over some prompts with their answers, by the sum of their losses.

    Returns:
        the pairs of the tokens that take part, by layer, and the loss of each answer in nats a token.

    Raises:
        ModelError: a layer is dense or out of range.
        NumericalError: a gradient is not finite.
    """
    batch, answers = pad_right(prompts, pad_token(base.tokenizer)), Answers.of(prompts)
    recorders = {layer: _Recorder() for layer in layers}
    losses: list[float] = []

    def loss(logits: Tensor) -> Tensor:
        each = answers.nll(logits[answers.reads.row, answers.reads.index])  # (B,)
        losses.extend(each.detach().tolist())
        return each.sum()

    with observe_experts(base, recorders):
        found = output_gradients(base, layers, batch.ids, batch.mask, loss)
    wanted = _taking_part(batch, answers, tokens)
    return {layer: recorders[layer].pairs(found[layer], wanted) for layer in layers}, losses


def _taking_part(batch: Batch, answers: Answers, tokens: Tokens) -> Tensor:
    """(B*S,) bool: which tokens of a batch take part."""
    if tokens == "all":
        return batch.mask.reshape(-1).bool()
    wanted = torch.zeros_like(batch.mask, dtype=torch.bool)  # (B, S)
    wanted[answers.reads.row, answers.reads.index] = True
    return wanted.reshape(-1)
