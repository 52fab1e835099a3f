"""Edits that are only tried: solved, put beside the weights, asked about, and taken off.

Trials share what does not depend on the options that differ between them. Target values are shared through
the cache, as between builds; moments of preserved text and null spaces are kept here. So a trial with another
ridge or another projection costs a solve and the questions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.evaluation.drift import measure_drift
from moe_patch.evaluation.scoring import AnswerScore, score_answers
from moe_patch.methods.delta import (
    DeltaMethod,
    DeltaOptions,
    EditSetup,
    edit_layers,
)
from moe_patch.methods.overrides import merged_options
from moe_patch.methods.preserved import preserve
from moe_patch.methods.schedule import run_schedule
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.moments import Moments
from moe_patch.solve.nullspace import NullSpace
from moe_patch.tuning.calibration import Probe
from moe_patch.tuning.score import FactScore, Score
from moe_patch.tuning.space import Settings

_LENGTH = 512  # tokens of a text that are read together


class Bench:
    """A base and a method on which settings are tried.

    Args:
        base: the model, without patches.
        method: the method.
        given: options by dotted names that all trials have.
        texts: text whose language should stay.
        candidates: all layers that may be edited.
    """

    def __init__(
        self,
        base: Base,
        method: DeltaMethod[Any],
        given: Mapping[str, Any],
        texts: Sequence[str],
        candidates: Collection[int] = (),
    ) -> None:
        self._base, self._method, self._given = base, method, dict(given)
        self._candidates = candidates
        self._sequences = base.reader.sequences(list(texts), _LENGTH)
        self._moments: dict[int, Moments] = {}
        self._texts: tuple[str, ...] = ()
        self._spaces: dict[tuple[object, ...], dict[int, NullSpace]] = {}
        self._layers: list[int] = []

    def options(self, settings: Settings) -> DeltaOptions:
        """The method's options.

        Raises:
            ConfigError: one is unknown or not valid.
        """
        options: DeltaOptions = merged_options(self._method.Options, {}, {**settings, **self._given}, "")
        return options

    def prepare(self, settings: Settings, progress: Progress | None = None) -> None:
        """Do what trials share before the first of them: its time should say how long others take.

        Raises:
            ConfigError: an option is unknown or not valid.
            StatisticsError: preserved text cannot be used.
            NumericalError: a moment is not finite.
        """
        options = self.options(settings)
        self._moments_of(edit_layers(self._base, options), options, progress)

    def score(self, settings: Settings, probes: Sequence[Probe], progress: Progress | None = None) -> Score:
        """Edit the probes' facts and score the model; it is as before when this returns or raises.

        Raises:
            MoePatchError: as for the method's `build`.
        """
        options = self.options(settings)
        with _without_warnings():
            patch = self._edit(options, [probe.fact for probe in probes], progress)
        with apply(self._base, patch, mode="hook", check=False, allow_large=True):
            facts = self._ask(probes, chat=options.targets.chat, progress=progress)
        return Score(facts, measure_drift(self._base, patch, self._sequences, progress).divergence)

    def _edit(self, options: DeltaOptions, facts: Sequence[Fact], progress: Progress | None) -> Patch:
        """The patch that a build would give, but for what it says about itself."""
        layers = edit_layers(self._base, options)
        moments = self._moments_of(layers, options, progress)
        setup = EditSetup(self._base, layers, moments, self._spaces_of(layers, options), self._texts)
        editor = self._method.editor(setup, options, progress)
        run_schedule(
            self._base,
            facts,
            editor,
            options.targets,
            batch_size=options.batch_size,
            progress=progress,
        )
        patch = Patch(
            kind="delta",
            method=self._method.name,
            hyperparameters={},
            base=self._base.fingerprint(layers),
            facts=tuple(facts),
            results=(),
            layers=editor.deltas(),
        )
        return self._method.finished(patch, options)

    def _moments_of(
        self, layers: Sequence[int], options: DeltaOptions, progress: Progress | None
    ) -> dict[int, Moments]:
        """The moments of preserved text at these layers; none if the options need none.

        They are collected once, at all layers together: a pass over the text costs little more for that.
        """
        if not options.needs_text:
            return {}
        if not self._moments.keys() >= set(layers):
            wanted = sorted({*layers, *self._candidates})
            found = preserve(
                self._base,
                wanted,
                options.corpus,
                options.corpus_tokens,
                progress,
                least=options.min_tokens,
                length=options.corpus_length,
            )
            self._moments, self._texts = found.moments, found.texts
        return {layer: self._moments[layer] for layer in layers}

    def _spaces_of(self, layers: Sequence[int], options: DeltaOptions) -> dict[int, NullSpace]:
        """The null spaces at these layers; those of other layers are forgotten, for they are large."""
        if not options.needs_text:
            return {}
        if self._layers != list(layers):
            self._layers, self._spaces = list(layers), {}
        rule = (options.projection, options.tau, options.energy, options.unseen, options.min_tokens)
        if rule not in self._spaces:
            moments = {layer: self._moments[layer] for layer in layers}
            self._spaces[rule] = self._method.projections(moments, options)
        return self._spaces[rule]

    def _ask(
        self, probes: Sequence[Probe], *, chat: bool, progress: Progress | None
    ) -> tuple[FactScore, ...]:
        """The scores of the facts, for the model as it is now."""
        pairs = [
            (prompt, answer)
            for probe in probes
            for prompt, wanted, rival in _questions(probe)
            for answer in (wanted, rival)
        ]
        scores = iter(score_answers(self._base, pairs, chat=chat, progress=progress, stage="facts asked"))
        found = []
        for probe in probes:
            points = [_points(next(scores), next(scores)) for _ in _questions(probe)]
            spread = 1 + len(probe.paraphrases)
            found.append(FactScore(points[0], _mean(points[1:spread]), _mean(points[spread:])))
        return tuple(found)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Log no warnings of single facts, which nobody asked to edit, unless more than warnings is logged.

    What is wrong with settings shows in their score.
    """
    loggers = [logging.getLogger(f"moe_patch.{package}") for package in ("methods", "targets")]
    quieted = [(logger, logger.level) for logger in loggers if not logger.isEnabledFor(logging.INFO)]
    for logger, _ in quieted:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in quieted:
            logger.setLevel(level)


def _questions(probe: Probe) -> list[tuple[str, str, str]]:
    """Prompts with the answer that is wanted and its rival: the edit's own, paraphrases, neighbours."""
    fact = probe.fact
    true = fact.target_true or ""
    edited = [(prompt, fact.target_new, true) for prompt in (fact.text, *probe.paraphrases)]
    return [*edited, *((prompt, answer, fact.target_new) for prompt, answer in probe.neighbours)]


def _points(wanted: AnswerScore, rival: AnswerScore) -> float:
    """A half if the wanted answer is likelier than its rival, and a half if it is said word for word."""
    return (float(wanted.logprob > rival.logprob) + float(wanted.exact)) / 2


def _mean(points: Sequence[float]) -> float | None:
    return fmean(points) if points else None
