"""What all methods that change down projections share: options, projections, and making the patch."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pydantic import Field, JsonValue, model_validator

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.base.statistics import DEFAULT_LENGTH
from moe_patch.data.fact_file import schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError
from moe_patch.evaluation.controls import with_controls
from moe_patch.methods.base import Method, MethodOptions
from moe_patch.methods.corpus_option import CORPUS_HELP, CorpusOption
from moe_patch.methods.earlier_edits import EarlierEdits
from moe_patch.methods.edit_rules import EditRules, ResidualShare
from moe_patch.methods.editors import DeltaEditor
from moe_patch.methods.outcome import with_outcomes
from moe_patch.methods.preserved import Preserved, preserve
from moe_patch.methods.room import Room, with_room
from moe_patch.methods.schedule import run_schedule
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import DEFAULT_ENERGY, DEFAULT_MIN_TOKENS, NullSpace, Unseen, null_space
from moe_patch.targets.groups import check_readable
from moe_patch.targets.options import TargetOptions

logger = logging.getLogger(__name__)


class DeltaOptions(MethodOptions):
    """Options shared by MoEEdit, MoTE and their relatives. Defaults do not depend on a model's scale."""

    layers: tuple[int, ...] = Field(
        (), description="Decoder layers to edit; target values are set at the last one."
    )
    batch_size: int | None = Field(None, ge=1, description="Facts solved together; unset: all of them.")
    protect_earlier: bool = Field(
        True, description="Keep the facts of earlier batches while a batch is solved."
    )
    ridge: float = Field(0.03, gt=0, description="lambda.")
    ridge_relative: bool = Field(True, description="Take lambda as a multiple of the kernel's mean diagonal.")
    projection: bool = Field(True, description="Project keys away from directions that preserved text uses.")
    energy: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"Share of the second moment to protect ({DEFAULT_ENERGY} unless tau is set).",
    )
    tau: float | None = Field(
        None, gt=0, description="Absolute eigenvalue threshold, instead of energy; 0.02 as published."
    )
    unseen: Unseen = Field("protect", description="What to do with experts that too few tokens reach.")
    min_tokens: int = Field(
        DEFAULT_MIN_TOKENS, ge=1, description="Fewest tokens with which an expert counts as seen."
    )
    corpus: CorpusOption = Field(None, description=CORPUS_HELP)
    corpus_tokens: int = Field(100_000, ge=1, description="Most tokens of preserved text to use.")
    corpus_length: int = Field(
        DEFAULT_LENGTH, ge=2, description="Longer preserved texts are cut into pieces of this many tokens."
    )
    residual_share: ResidualShare = Field(
        "layers",
        description="What a layer's share of what is missing is divided by: the number of edit layers "
        "from it on; distance: L - l + 1, which differs where edit layers do not follow one another; root: "
        "the root of the number.",
    )
    experts_per_fact: int | None = Field(
        None, ge=1, description="Edit only the experts with a fact's largest gates; unset: all it reaches."
    )
    targets: TargetOptions = TargetOptions()

    @model_validator(mode="after")
    def _one_threshold(self) -> DeltaOptions:
        if self.tau is not None and self.energy is not None:
            raise ValueError("give tau or energy, not both")
        return self

    @property
    def needs_text(self) -> bool:
        """Whether preserved text is used."""
        return self.projection

    @property
    def rules(self) -> EditRules:
        """What the shared editors are told."""
        return EditRules(
            protect_earlier=self.protect_earlier,
            residual_share=self.residual_share,
            experts_per_fact=self.experts_per_fact,
        )


class LayerOptions(Protocol):
    """Options that name edit layers."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Decoder layers to edit."""


def edit_layers(base: Base, options: LayerOptions) -> list[int]:
    """The edit layers, ascending, checked against the base.

    Raises:
        ConfigError: none are given.
        ModelError: one is dense or out of range.
    """
    if not options.layers:
        known = ", ".join(map(str, base.layers))
        raise ConfigError(
            f"no edit layers for {base.name}: name some with --layers; the layers with experts are {known}"
        )
    return [base.layer(index).index for index in sorted(set(options.layers))]


@dataclass(frozen=True, slots=True, eq=False)
class EditSetup:
    """What a method needs to make its editor."""

    base: Base
    layers: list[int]
    moments: dict[int, Moments]  # of preserved text, by edit layer; empty if the options need none
    projections: dict[int, NullSpace]  # empty without projection
    texts: tuple[str, ...] = ()  # the preserved text, for what its moments do not say


DeltaOptionsT = TypeVar("DeltaOptionsT", bound=DeltaOptions)


class DeltaMethod(Method[DeltaOptionsT]):
    """A method that changes down projections: it supplies an editor for the schedule that all share."""

    @abstractmethod
    def editor(self, setup: EditSetup, options: DeltaOptionsT, progress: Progress | None) -> DeltaEditor:
        """The editor that changes the layers.

        Raises:
            ConfigError: an option is out of range for this base.
            ModelError: the layers cannot be edited together.
        """

    def projections(self, moments: Mapping[int, Moments], options: DeltaOptionsT) -> dict[int, NullSpace]:
        """What the facts' keys are projected by, from the moments of preserved text, both by edit layer.

        Raises:
            StatisticsError: the text is too short for the choice of `unseen`.
        """
        return null_space_projections(moments, options)

    def finished(self, patch: Patch, options: DeltaOptionsT) -> Patch:
        """The final patch, for methods that change it after the build; by default `patch` itself."""
        return patch

    def build(
        self, base: Base, facts: Sequence[Fact], options: DeltaOptionsT, progress: Progress | None = None
    ) -> Patch:
        """Build a patch.

        Raises:
            ConfigError: there are no facts or no edit layers.
            ModelError: a layer cannot be edited.
            StatisticsError: the preserved text cannot be used, or the base writes none of its own.
            TargetError: a fact's subject or answer has no token of its own, or a layer has nothing to edit.
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

        Raises:
            ConfigError: as `build`, or `protect_earlier` is off.
            PatchError: the stack does not hold the rows of its facts.
            ModelError: as `build`.
            StatisticsError: as `build`.
            TargetError: as `build`.
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
        """Run the shared schedule with the method's editor and make a patch of the result.

        The patch's hyper-parameters are the options, what the projections protect, and the editor's findings.
        The path of the corpus means nothing on another machine and is replaced by `corpus_hash`. A stack
        `earlier` is on while facts are edited, but moments of preserved text are taken on the bare base.
        """
        if earlier is not None and not options.protect_earlier:
            raise ConfigError(
                "a build on top of a stack protects the stack's facts, but protect_earlier is off: turn it on"
            )
        layers = edit_layers(base, options)
        check_readable(base, facts, options.targets)
        fingerprint = base.fingerprint(layers, progress)
        preserved = Preserved()
        if options.needs_text:
            preserved = preserve(
                base,
                layers,
                options.corpus,
                options.corpus_tokens,
                progress,
                least=options.min_tokens,
                length=options.corpus_length,
            )
        projections = self.projections(preserved.moments, options)
        setup = EditSetup(base, layers, preserved.moments, projections, preserved.texts)
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
            patch = Patch(
                kind="delta",
                method=self.name,
                hyperparameters=_parameters(options, setup, preserved, editor.room) | editor.findings(),
                base=fingerprint,
                facts=tuple(facts),
                results=tuple(with_room(results, editor.room)),
                layers=editor.deltas(),
                schema=schema_of_facts(facts),
            )
            finished = self.finished(patch if earlier is None else earlier.finish(patch), options)
            finished = with_outcomes(base, finished, progress)
            return with_controls(base, finished, preserved.texts)


def _parameters(
    options: DeltaOptions, setup: EditSetup, preserved: Preserved, room: Room
) -> dict[str, JsonValue]:
    """The options, as a patch records them, and what the projections protect and leave."""
    parameters: dict[str, JsonValue] = options.model_dump(mode="json", exclude={"corpus"})
    parameters |= {"layers": list(setup.layers), "corpus_hash": preserved.corpus_hash}
    parameters["preserved_text"] = preserved.record
    parameters["protection"] = [
        space.summary() | room.of_layer(layer) for layer, space in setup.projections.items()
    ]
    return parameters


def null_space_projections(
    moments: Mapping[int, Moments], options: DeltaOptions, find: Callable[..., NullSpace] = null_space
) -> dict[int, NullSpace]:
    """Each layer's null-space projection; empty if the options turn projection off.

    A warning is logged if the text reached some experts too seldom.

    Args:
        moments: of preserved text, by edit layer.
        options: with the rule by which directions count as used.
        find: gives the projection of a layer, with the arguments of `null_space`.

    Raises:
        StatisticsError: the text is too short for the choice of `unseen`.
    """
    if not options.projection:
        return {}
    found = {
        layer: find(
            seen,
            tau=options.tau,
            energy=options.energy,
            unseen=options.unseen,
            min_tokens=options.min_tokens,
        )
        for layer, seen in moments.items()
    }
    warn_of_unseen(found, options)
    return found


def warn_of_unseen(found: Mapping[int, NullSpace], options: DeltaOptions) -> None:
    """Log a warning for each layer with experts that preserved text reached too seldom."""
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
