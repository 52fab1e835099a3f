"""What every method that changes down projections has in common: its options, its projections, its patch."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import Field, JsonValue, model_validator

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.statistics import collect_moments
from moe_patch.data.corpus import Corpus
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError, ModelError
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.methods.editors import DeltaEditor
from moe_patch.methods.schedule import run_schedule
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import DEFAULT_MIN_TOKENS, DEFAULT_TAU, NullSpace, Unseen, null_space
from moe_patch.targets.search import TargetOptions

logger = logging.getLogger(__name__)


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

    @property
    def without_text(self) -> str:
        """The flags with which no preserved text would be needed; empty if none is."""
        return "--no-projection" if self.projection else ""


def edit_layers(base: Base, options: DeltaOptions) -> list[int]:
    """The edit layers, ascending, checked against the base.

    Raises:
        ConfigError: none are given.
        ModelError: one is dense or out of range, or its experts write into another space than the residual
            stream, where target values are set.
    """
    if not options.layers:
        known = ", ".join(map(str, base.layers))
        raise ConfigError(
            f"no edit layers for {base.name}: name some with --layers; it has experts in {known}"
        )
    layers = [base.layer(index) for index in sorted(set(options.layers))]
    for layer in layers:
        if layer.d_model != base.hidden_size:
            raise ModelError(
                f"{layer.name} puts out vectors of width {layer.d_model}, not of the residual stream's "
                f"{base.hidden_size}: methods that set target values cannot edit it"
            )
    return [layer.index for layer in layers]


@dataclass(frozen=True, slots=True, eq=False)
class EditSetup:
    """What a method's editor is built on."""

    base: Base
    layers: list[int]
    moments: dict[int, Moments]  # of preserved text by edit layer; empty where the options need none
    projections: dict[int, NullSpace]  # empty without projection


DeltaOptionsT = TypeVar("DeltaOptionsT", bound=DeltaOptions)


class DeltaMethod(Method[DeltaOptionsT]):
    """A method that changes down projections: it brings an editor, and the shared schedule does the rest."""

    @abstractmethod
    def editor(self, setup: EditSetup, options: DeltaOptionsT, progress: Progress | None) -> DeltaEditor:
        """What edits the layers; raises ConfigError or ModelError where the options do not fit the base."""

    def finished(self, patch: Patch, options: DeltaOptionsT) -> Patch:
        """What is written in the end; the patch itself unless a method makes something of it."""
        return patch

    def build(
        self, base: Base, facts: Sequence[Fact], options: DeltaOptionsT, progress: Progress | None = None
    ) -> Patch:
        """Build a patch.

        Raises:
            ConfigError: there are no facts, no edit layers, or no preserved text though the options need it.
            ModelError: a layer cannot be edited.
            StatisticsError: the preserved text cannot be used.
            TargetError: a fact cannot be tokenised as needed, or nothing may be edited in a layer.
        """
        return self._build(base, facts, options, progress)

    def build_on(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: DeltaOptionsT,
        earlier: EarlierEdits,
        progress: Progress | None = None,
    ) -> Patch:
        """Build on top of a stack, whose facts the editor protects.

        Raises as `build` does, ConfigError where the stack's facts are not to be protected, and PatchError
        if the stack lacks its rows.
        """
        return self._build(base, facts, options, progress, earlier)

    def _build(
        self,
        base: Base,
        facts: Sequence[Fact],
        options: DeltaOptionsT,
        progress: Progress | None,
        earlier: EarlierEdits | None = None,
    ) -> Patch:
        """Run the shared schedule with the method's editor and pack what comes out.

        The patch's hyper-parameters are the options, but for the corpus's path, which means nothing elsewhere
        and gives way to `corpus_hash`; what the projections protect; and the editor's findings. A stack
        `earlier` is on while facts are edited; preserved text is that of the bare base.
        """
        if earlier is not None and not options.protect_earlier:
            raise ConfigError(
                "a build on top of a stack protects the stack's facts: leave protect_earlier on"
            )
        layers = edit_layers(base, options)
        fingerprint = base.fingerprint(layers)
        moments, corpus_hash = preserved_moments(base, layers, options, progress)
        setup = EditSetup(base, layers, moments, null_space_projections(moments, options))
        editor = self.editor(setup, options, progress)
        if earlier is not None:
            editor.protect(earlier.rows(layers, facts))
        with nullcontext() if earlier is None else apply(base, earlier.patch, mode="hook"):
            results = run_schedule(
                base,
                facts,
                editor,
                options.targets,
                batch_size=options.batch_size,
                earlier=() if earlier is None else earlier.facts(facts),
                progress=progress,
            )
        parameters: dict[str, JsonValue] = options.model_dump(mode="json", exclude={"corpus"})
        parameters |= {"layers": list(layers), "corpus_hash": corpus_hash}
        parameters["protection"] = [space.summary() for space in setup.projections.values()]
        patch = Patch(
            kind="delta",
            method=self.name,
            hyperparameters=parameters | editor.findings(),
            base=fingerprint,
            facts=tuple(facts),
            results=tuple(results),
            layers=editor.deltas(),
        )
        return self.finished(patch if earlier is None else earlier.finish(patch), options)


def preserved_moments(
    base: Base, layers: Sequence[int], options: DeltaOptions, progress: Progress | None
) -> tuple[dict[int, Moments], str | None]:
    """Second moments of the edit layers' keys over preserved text, and its hash; nothing if none is needed.

    Raises:
        ConfigError: text is needed, but none is named.
        StatisticsError: the text cannot be read.
    """
    if not options.without_text:
        return {}, None
    if options.corpus is None:
        raise ConfigError(
            f"no preserved text to look at: give --corpus FILE, or {options.without_text} to do without"
        )
    corpus = Corpus.read(options.corpus)
    moments = collect_moments(
        base,
        corpus,
        layers,
        max_tokens=options.corpus_tokens,
        progress=progress and (lambda done, total: progress("statistics", done, total)),
    )
    return moments, corpus.hash


def null_space_projections(moments: Mapping[int, Moments], options: DeltaOptions) -> dict[int, NullSpace]:
    """Each layer's null-space projection; none without projection. Experts that text missed are warned of.

    Raises:
        StatisticsError: the text is too short for the policy on unseen experts.
    """
    if not options.projection:
        return {}
    found = {
        layer: null_space(
            seen,
            tau=options.tau,
            energy=options.energy,
            unseen=options.unseen,
            min_tokens=options.min_tokens,
        )
        for layer, seen in moments.items()
    }
    for layer, space in found.items():
        if space.unseen:
            logger.warning(
                "layer %d: fewer than %d tokens of preserved text reached %d of %d experts: they are %s",
                layer,
                options.min_tokens,
                len(space.unseen),
                len(space.tokens),
                "not edited" if options.unseen == "protect" else "edited without protection",
            )
    return found
