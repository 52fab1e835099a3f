"""MoTE, the MoE Tucker Editor (arXiv 2605.16686): solve once for a Tucker core, spread it over the layers.

The delta of the last edit layer is restricted to the manifold given by the Tucker factors of the layer's own
weights; the mathematics is in `moe_patch.solve.tucker_edit`. The core found there goes to every edit layer,
divided by L - l + 1, through that layer's own factors and projections. All layers therefore have the ranks of
the last one.

Keys and outputs may be whitened, see `moe_patch.solve.whitening`. The factors are then those of the whitened
weights, and lambda penalises the delta by its effect on the keys of preserved text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from moe_patch.base.gradients import gradient_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.prompts import pad_token
from moe_patch.methods.delta import DeltaMethod, DeltaOptions, EditSetup
from moe_patch.methods.layer_edit import LayerProblem, LayerSolution
from moe_patch.methods.mote.factors import decompose_layer, tucker_factors
from moe_patch.methods.spread_edit import SpreadEditor, check_one_shape
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows
from moe_patch.progress import Progress
from moe_patch.solve.algebra import ridge_value
from moe_patch.solve.nullspace import NullSpace
from moe_patch.solve.tucker import Decomposition, Rank, Ranks
from moe_patch.solve.tucker_edit import Manifold, compress_rows, expand_rows, solve_core, truncate_delta
from moe_patch.solve.whitening import EPSILON_SHARE, WhiteningKind, find_whitening

DEFAULT_ENERGY = 0.99


class MoTEOptions(DeltaOptions):
    """Options of MoTE. Whitening is the paper's for Qwen3-30B-A3B."""

    ranks: tuple[Rank, Rank, Rank] | None = Field(
        None,
        description="Tucker ranks of experts, outputs and keys: numbers, or shares such as 0.5; unset: all "
        f"of the outputs, and {DEFAULT_ENERGY} of the weights' energy for experts and for keys.",
    )
    rank_energy: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the weights' energy that each mode keeps, outputs too, instead of ranks.",
    )
    core_width: int | None = Field(
        None,
        ge=1,
        description="Most r_e r_in, the width of a fact's compressed keys; in the thousands as published. "
        "All modes then keep the same share of energy.",
    )
    sweeps: int = Field(0, ge=0, description="Sweeps of HOOI that refine the factors.")
    whitening: WhiteningKind = Field("in", description="Modes to whiten: none, in (keys), out, both.")
    whitening_epsilon: float | None = Field(
        None,
        gt=0,
        description=f"Added to the second moments' diagonal; unset: {EPSILON_SHARE:g} of its mean.",
    )
    out_moment: Literal["outputs", "gradients"] = Field(
        "outputs",
        description="What whitens outputs: their second moment, or, as published, that of random gradients.",
    )
    gradient_tokens: int = Field(
        16_384, ge=1, description="Most tokens of preserved text on which gradients are taken."
    )
    delta_rank: int | None = Field(
        None, ge=1, description="Number of left factors kept in each layer; unset: all, which is exact."
    )

    @model_validator(mode="after")
    def _one_rank_rule(self) -> MoTEOptions:
        if sum(rule is not None for rule in (self.ranks, self.rank_energy, self.core_width)) > 1:
            raise ValueError("give only one of ranks, rank_energy and core_width")
        return self

    @property
    def needs_text(self) -> bool:
        """Whether preserved text is used, which whitening does too."""
        return super().needs_text or self.whitening != "none"


@dataclass(frozen=True, slots=True)
class TuckerSpreader:
    """Solves for a core in the coordinates of the last layer's manifold, and maps it to other manifolds."""

    manifolds: Mapping[int, Manifold]
    last: int
    projections: Mapping[int, NullSpace]
    ridge: float
    ridge_relative: bool

    @property
    def ranks(self) -> Ranks:
        """(r_e, r_out, r_in), the same for all layers."""
        return self.manifolds[self.last].ranks

    def rows(self, rows: Rows) -> Rows:
        """One row for each fact: its compressed keys (r_e * r_in), as if there were only one expert."""
        compressed = compress_rows(rows, self.manifolds[self.last]).flatten(1)
        fact = torch.arange(rows.num_facts)
        return Rows(compressed, torch.zeros_like(fact), fact, rows.num_facts)

    def residual(self, residual: Tensor) -> Tensor:
        """(T, r_out) the part of the residuals that the manifold can express, in its coordinates."""
        return residual.double() @ self.manifolds[self.last].read

    def reached(self, residual: Tensor) -> Tensor:
        """(T, d_m) that part as vectors."""
        return residual.double() @ self.manifolds[self.last].write.T

    def __call__(self, problem: LayerProblem) -> LayerSolution:
        """The core's left factor for each fact."""
        compressed = self._compressed(problem.rows.value)
        scale = compressed.square().sum((1, 2)).mean()  # the mean diagonal of Phi Phi^T
        ridge = ridge_value(scale.reshape(1, 1), self.ridge, self.ridge_relative)
        return LayerSolution(solve_core(compressed, problem.residual, ridge), ridge)

    def spread(self, solution: LayerDelta, layer: int) -> tuple[Tensor, Rows]:
        """The core, mapped through a layer's own factors and projections."""
        manifold = self.manifolds[layer]
        rows = expand_rows(
            self._compressed(solution.rows.value.double()), manifold, self.projections.get(layer)
        )
        return solution.left.double() @ manifold.write.T, rows

    def findings(self) -> dict[str, JsonValue]:
        """`tucker_ranks`: the ranks that were used."""
        return {"tucker_ranks": list(self.ranks)}

    def _compressed(self, value: Tensor) -> Tensor:
        r_e, _, r_in = self.ranks
        return value.reshape(-1, r_e, r_in)


class MoTE(DeltaMethod[MoTEOptions]):
    """The method, in the registry as `mote`."""

    name = "mote"
    pretty_name = "MoTE"
    changes = "down projections of several layers, from one solve"
    Options = MoTEOptions

    @classmethod
    def reference_url(cls) -> str:
        """The paper on arXiv."""
        return "https://arxiv.org/abs/2605.16686"

    def editor(self, setup: EditSetup, options: MoTEOptions, progress: Progress | None) -> SpreadEditor:
        """An editor that solves for the core at the last layer and spreads it.

        Raises:
            ConfigError: a rank is out of range.
            ModelError: the layers have experts of different numbers or sizes.
            StatisticsError: the moments for whitening are missing or not finite.
        """
        manifolds = find_manifolds(setup, options, progress)
        spreader = TuckerSpreader(
            manifolds, setup.layers[-1], setup.projections, options.ridge, options.ridge_relative
        )
        return SpreadEditor(setup.base, setup.layers, spreader, setup.projections, options.rules)

    def finished(self, patch: Patch, options: MoTEOptions) -> Patch:
        """The patch, truncated if `delta_rank` is set."""
        return patch if options.delta_rank is None else truncate_patch(patch, options.delta_rank)


def truncate_patch(patch: Patch, rank: int) -> Patch:
    """The patch with `rank` left factors in each layer.

    The hyper-parameter `delta_errors` has, by layer, the relative error of all experts' deltas together in
    the Frobenius norm.
    """
    layers = {layer: truncate_delta(delta, rank) for layer, delta in patch.layers.items()}
    errors: dict[str, JsonValue] = {str(layer): error for layer, (_, error) in layers.items()}
    return replace(
        patch,
        layers={layer: delta for layer, (delta, _) in layers.items()},
        hyperparameters=patch.hyperparameters | {"delta_errors": errors},
    )


def find_manifolds(
    setup: EditSetup, options: MoTEOptions, progress: Progress | None = None
) -> dict[int, Manifold]:
    """The manifold of every edit layer, with the ranks that the options give for the last one.

    Raises:
        ConfigError: a rank is out of range.
        ModelError: the layers have experts of different numbers or sizes.
        StatisticsError: the moments for whitening are missing or not finite.
    """
    check_one_shape(setup.base, setup.layers)
    base, last = setup.base, setup.layers[-1]
    manifolds: dict[int, Manifold] = {}
    ranks: Ranks | None = None
    gradients = _gradients(setup, options)
    for number, layer in enumerate(reversed(setup.layers)):  # the last first: it sets the ranks
        whitening = find_whitening(
            options.whitening,
            base.layer(layer),
            setup.moments.get(layer),
            options.whitening_epsilon,
            gradients.get(layer),
        )
        if ranks is None:
            ranks = _ranks(decompose_layer(base, last, whitening), options)
        factors = tucker_factors(base, layer, ranks, whitening, sweeps=options.sweeps)
        manifolds[layer] = Manifold.of(factors, whitening)
        if progress is not None:
            progress("factors", number + 1, len(setup.layers))
    return manifolds


def _ranks(found: Decomposition, options: MoTEOptions) -> Ranks:
    """The ranks that the options' rule gives."""
    if options.core_width is not None:
        return found.ranks_within(options.core_width)
    if options.ranks is not None or options.rank_energy is not None:
        return found.ranks(options.ranks, options.rank_energy)
    experts, _, keys = found.ranks(None, DEFAULT_ENERGY)
    # what an answer needs of an output that is left out is lost, and leaving it out saves nothing
    return experts, len(found.out.values), keys


def _gradients(setup: EditSetup, options: MoTEOptions) -> dict[int, Tensor]:
    """(d_m, d_m) moments of random gradients by layer; empty if the options do not whiten by them."""
    if options.whitening not in {"out", "both"} or options.out_moment == "outputs":
        return {}
    sequences = Corpus("preserved text", setup.texts).sequences(
        setup.base.reader, max_tokens=options.gradient_tokens, length=options.corpus_length
    )
    pad = pad_token(setup.base.tokenizer)
    return gradient_moments(setup.base, list(sequences), setup.layers, pad=pad)
