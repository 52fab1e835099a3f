"""What every method that changes down projections has in common: its options, its projections, its patch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, model_validator

from moe_patch.corpus import Corpus
from moe_patch.errors import ConfigError
from moe_patch.facts import Fact
from moe_patch.methods.base import MethodOptions, Progress
from moe_patch.methods.schedule import LayerSolver, edit_in_batches
from moe_patch.model import Base
from moe_patch.nullspace import DEFAULT_MIN_TOKENS, DEFAULT_TAU, NullSpace, Unseen, null_space
from moe_patch.patch import Patch
from moe_patch.statistics import collect_moments
from moe_patch.targets import TargetOptions


class DeltaOptions(MethodOptions):
    """Options shared by MoEEdit, MoTE and their relatives. Defaults are MoEEdit's."""

    layers: tuple[int, ...] = Field(
        (), description="Decoder layers to edit, the last one being where targets are set."
    )
    batch_size: int | None = Field(None, ge=1, description="Facts solved together; unset: all of them.")
    protect_earlier: bool = Field(
        True, description="Ask of each batch to leave earlier batches' facts alone."
    )
    ridge: float = Field(1.0, gt=0, description="lambda.")
    ridge_relative: bool = Field(
        False, description="Take lambda as a multiple of the kernel's mean diagonal."
    )
    projection: bool = Field(True, description="Project keys away from what preserved text uses.")
    tau: float | None = Field(
        None, gt=0, description=f"Absolute eigenvalue threshold ({DEFAULT_TAU} unless energy is set)."
    )
    energy: float | None = Field(
        None, gt=0, le=1, description="Share of the second moment to protect, instead of tau."
    )
    unseen: Unseen = Field("protect", description="What to do with experts that too few tokens reached.")
    min_tokens: int = Field(
        DEFAULT_MIN_TOKENS, ge=1, description="Fewest tokens with which an expert counts as seen."
    )
    corpus: Path | None = Field(None, description="Text to preserve, .txt or .jsonl.")
    corpus_tokens: int = Field(100_000, ge=1, description="Tokens of preserved text to look at.")
    targets: TargetOptions = TargetOptions()

    @model_validator(mode="after")
    def _one_threshold(self) -> DeltaOptions:
        if self.tau is not None and self.energy is not None:
            raise ValueError("give tau or energy, not both")
        return self


def edit_layers(base: Base, options: DeltaOptions) -> list[int]:
    """The edit layers, checked against the base.

    Raises:
        ConfigError: none are given.
        ModelError: one is dense or out of range.
    """
    if not options.layers:
        known = ", ".join(map(str, base.layers))
        raise ConfigError(
            f"no edit layers for {base.name}: name some with --layers; it has experts in {known}"
        )
    return [base.layer(layer).index for layer in sorted(set(options.layers))]


def projections(
    base: Base, layers: Sequence[int], options: DeltaOptions, progress: Progress | None
) -> dict[int, NullSpace] | None:
    """Each layer's null-space projection from preserved text, or None without projection."""
    if not options.projection:
        return None
    if options.corpus is None:
        raise ConfigError(
            "no preserved text to project away from: give --corpus FILE, or --no-projection to do without"
        )
    moments = collect_moments(
        base,
        Corpus.read(options.corpus),
        layers,
        max_tokens=options.corpus_tokens,
        progress=progress and (lambda done, total: progress("statistics", done, total)),
    )
    return {
        layer: null_space(
            moments[layer],
            tau=options.tau,
            energy=options.energy,
            unseen=options.unseen,
            min_tokens=options.min_tokens,
        )
        for layer in layers
    }


def build_delta_patch(
    method: str,
    base: Base,
    facts: Sequence[Fact],
    options: DeltaOptions,
    solver: LayerSolver,
    progress: Progress | None,
) -> Patch:
    """Run the shared schedule with a method's own solver and pack what comes out."""
    layers = edit_layers(base, options)
    fingerprint = base.fingerprint(layers)
    spaces = projections(base, layers, options, progress)
    deltas, results = edit_in_batches(
        base,
        facts,
        layers,
        solver,
        spaces,
        options.targets,
        batch_size=options.batch_size,
        protect_earlier=options.protect_earlier,
        progress=progress,
    )
    parameters = options.model_dump(mode="json", exclude={"corpus"})  # a path means nothing elsewhere
    return Patch(
        kind="delta",
        method=method,
        hyperparameters=parameters | {"layers": list(layers)},
        base=fingerprint,
        facts=tuple(facts),
        results=tuple(results),
        layers=deltas,
    )
