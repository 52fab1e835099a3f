"""Causal tracing: which layer's state at the edited token carries what a base knows of a subject.

The procedure is that of ROME (arXiv 2202.05262, section 2 and appendix B), which MoEEdit (arXiv 2602.10965,
appendix B.1) follows for blocks of experts. A fact is run as it is, with noise at its subject's embeddings,
and with the same noise while one layer's state at the subject's last token is what it was without.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.progress import Progress
from moe_patch.tracing.asked import PLAIN, Asked, ask_all
from moe_patch.tracing.report import Effect, LayerEffect, TracedFact, TraceReport
from moe_patch.tracing.runs import NOISE, Run, Runner
from moe_patch.tracing.sites import Kind, Site, find_sites


def trace(
    base: Base,
    facts: Sequence[Fact],
    *,
    noise_samples: int = 3,
    noise: float = NOISE,
    seed: int = 0,
    kinds: Collection[Kind] = ("moe", "stream"),
    layers: Collection[int] | None = None,
    window: int = 1,
    style: PromptStyle = PLAIN,
    progress: Progress | None = None,
) -> TraceReport:
    """The average indirect effect of each layer on what the base says of the facts' subjects.

    Each fact's answer is the base's own: what it says greedily after the prompt.

    Args:
        base: the model, as it is now.
        facts: of which it is asked.
        noise_samples: drawings of noise for each fact.
        noise: its size, in standard deviations of the embeddings of the facts' subjects.
        seed: of the noise.
        kinds: of the states that are restored.
        layers: to restore; None for all.
        window: how many layers around each are restored together.
        style: how facts become text, and which token is restored.
        progress: called with the stage "tracing".

    Raises:
        ConfigError: there are no facts, samples or layers, or a layer does not exist.
        CaptureError: the embeddings cannot be changed.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    wanted = sorted(set(range(base.num_layers) if layers is None else layers))
    _check(base, wanted, window)
    tracer = Tracer(base, facts, kinds, noise_samples=noise_samples, noise=noise, seed=seed, style=style)
    tracer.start(
        progress, restored=len(facts) * sum(tracer.has(kind, layer) for kind in kinds for layer in wanted)
    )
    effects = {kind: tracer.restore(kind, wanted, window) for kind in kinds}
    tracer.finish()
    return tracer.report(wanted, effects, window)


class Tracer:
    """A trace in steps, each of which may depend on what the ones before have found."""

    clean: Tensor  # (F,) the probability of each answer
    corrupted: Tensor  # (F, N) the same with each sample of noise

    def __init__(
        self,
        base: Base,
        facts: Sequence[Fact],
        kinds: Collection[Kind],
        *,
        noise_samples: int,
        noise: float,
        seed: int,
        style: PromptStyle,
    ) -> None:
        if not facts or noise_samples < 1:
            raise ConfigError(f"{len(facts)} facts and {noise_samples} samples of noise: expected at least 1")
        self._base, self._noise, self._seed, self._samples = base, noise, seed, noise_samples
        self._sites = {kind: find_sites(base, kind) for kind in kinds}
        self._asked = ask_all(base, facts, style)
        self._runner = Runner(base, self._asked, noise, seed)

    def start(self, progress: Progress | None = None, *, restored: int = 0) -> None:
        """Run the facts with and without noise.

        Args:
            progress: called with the stage "tracing", here and later.
            restored: about how many runs with restored states will follow for each sample.
        """
        facts = len(self._asked)
        self._count = _Counter(progress, facts * (1 + self._samples) + restored * self._samples)
        sites = [site for found in self._sites.values() for site in found.values()]
        runs = [Run(fact, None) for fact in range(facts)]
        self.clean, self._states = self._runner.run(runs, sites, self._count.more)
        noisy = [Run(fact, sample) for fact in range(facts) for sample in range(self._samples)]
        self.corrupted = self._runner.run(noisy, (), self._count.more)[0].view(facts, self._samples)

    def has(self, kind: Kind, layer: int) -> bool:
        """Whether a layer has a site of a kind."""
        return layer in self._sites[kind]

    def finish(self) -> None:
        """Say that nothing more is going to be restored."""
        self._count.finish()

    def restore(
        self, kind: Kind, layers: Sequence[int], window: int = 1, facts: Sequence[int] | None = None
    ) -> dict[int, Effect]:
        """The indirect effect of each of some layers that have a site of a kind.

        Args:
            kind: of the sites.
            layers: to restore.
            window: how many layers around each are restored together.
            facts: numbers of those to restore; None for all.
        """
        some = list(range(len(self._asked)) if facts is None else facts)
        windows = _windows(self._sites[kind], layers, window)
        if not windows:
            return {}
        runs = [Run(fact, sample) for fact in some for sample in range(self._samples)]
        values = [{site: self._states[site] for site in sites} for sites in windows.values()]
        chances = self._runner.restored(runs, values, self._count.more)  # (W, F * N)
        gained = (chances.view(len(windows), len(some), -1) - self.corrupted[some]).mean(2)  # (W, F)
        return dict(zip(windows, map(Effect.of, gained), strict=True))

    def report(
        self,
        layers: Sequence[int],
        effects: Mapping[Kind, Mapping[int, Effect]],
        window: int = 1,
        facts: Sequence[int] | None = None,
    ) -> TraceReport:
        """What was found, of some layers and facts."""
        some = list(range(len(self._asked)) if facts is None else facts)
        clean, corrupted = self.clean[some], self.corrupted[some].mean(1)  # (F,)
        asked = [self._asked[fact] for fact in some]
        return TraceReport(
            base=self._base.name,
            facts=tuple(map(_traced, asked, clean.tolist(), corrupted.tolist())),
            noise=self._noise,
            samples=self._samples,
            seed=self._seed,
            window=window,
            total=Effect.of(clean - corrupted),
            layers=tuple(_layer(self._base, layer, effects) for layer in layers),
        )


def _windows(sites: Mapping[int, Site], layers: Sequence[int], window: int) -> dict[int, list[Site]]:
    """The sites of the layers around each of `layers`, which are fewer at the ends of the model."""
    below, above = (window - 1) // 2, window // 2
    return {
        layer: [sites[near] for near in range(layer - below, layer + above + 1) if near in sites]
        for layer in layers
        if layer in sites
    }


def _layer(base: Base, layer: int, effects: Mapping[Kind, Mapping[int, Effect]]) -> LayerEffect:
    experts = base.layers[layer].num_experts if layer in base.layers else 0
    return LayerEffect(
        layer, experts, {kind: found[layer] for kind, found in effects.items() if layer in found}
    )


def _traced(asked: Asked, clean: float, corrupted: float) -> TracedFact:
    return TracedFact(asked.fact.id, asked.fact.text, asked.answer, asked.known, clean, corrupted)


class _Counter:
    """Turns the numbers of runs done into progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def more(self, runs: int) -> None:
        self._done = min(self._done + runs, self._total)
        if self._progress is not None:
            self._progress("tracing", self._done, self._total)

    def finish(self) -> None:
        self.more(self._total)


def _check(base: Base, layers: Sequence[int], window: int) -> None:
    if window < 1:
        raise ConfigError(f"windows of {window} layers cannot be restored: expected at least 1")
    if not layers or layers[0] < 0 or layers[-1] >= base.num_layers:
        raise ConfigError(
            f"layers {', '.join(map(str, layers)) or '(none)'} cannot be traced: {base.name} has layers 0 to "
            f"{base.num_layers - 1}"
        )
