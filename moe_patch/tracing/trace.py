"""Causal tracing: which layer's state at the edited token carries what a base knows of a subject.

The procedure is that of ROME (arXiv 2202.05262, section 2 and appendix B), which MoEEdit (arXiv 2602.10965,
appendix B.1) follows for blocks of experts. A fact is run as it is, with noise at its subject's embeddings,
and with the same noise while one layer's state at the subject's last token is what it was without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import Tensor

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.progress import Progress
from moe_patch.tracing.report import Effect, LayerEffect, TracedFact, TraceReport
from moe_patch.tracing.runs import NOISE, PLAIN, Asked, Run, Runner, ask_all
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
        ConfigError: there are no facts, samples, or layers, or a layer does not exist.
        CaptureError: the embeddings cannot be changed.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    wanted = sorted(set(range(base.num_layers) if layers is None else layers))
    _check(base, facts, noise_samples, wanted, window)
    sites = {kind: find_sites(base, kind) for kind in kinds}
    asked = ask_all(base, facts, style)
    runner = Runner(base, asked, noise, seed)
    every = [site for found in sites.values() for site in found.values()]
    restored = sum(layer in found for found in sites.values() for layer in wanted)
    count = _Counter(progress, len(asked) * (1 + noise_samples * (1 + restored)))
    clean, states = runner.run([Run(i, None) for i in range(len(asked))], every, count.more)  # (F,)
    noisy = [Run(i, sample) for i in range(len(asked)) for sample in range(noise_samples)]
    corrupted = runner.run(noisy, (), count.more)[0].view(len(asked), noise_samples)  # (F, N)
    effects = {
        kind: _restore(runner, corrupted, states, _windows(found, wanted, window), count.more)
        for kind, found in sites.items()
    }
    return TraceReport(
        base=base.name,
        facts=tuple(map(_traced, asked, clean.tolist(), corrupted.mean(1).tolist())),
        noise=noise,
        samples=noise_samples,
        seed=seed,
        window=window,
        total=Effect.of(clean - corrupted.mean(1)),
        layers=tuple(_layer(base, layer, effects) for layer in wanted),
    )


def _restore(
    runner: Runner,
    corrupted: Tensor,
    states: Mapping[Site, Tensor],
    windows: Mapping[int, Sequence[Site]],
    report: Callable[[int], None],
) -> dict[int, Effect]:
    """The indirect effect of each window of sites, by the layer that it is around.

    Args:
        runner: of F facts.
        corrupted: (F, N) the probability of each answer with each sample of noise.
        states: (F, d_m) by site, without noise.
        windows: what is restored together.
        report: called with the number of further runs that are done.
    """
    facts, samples = corrupted.shape
    runs = [
        Run(fact, sample, {site: states[site][fact] for site in window})
        for fact in range(facts)
        for window in windows.values()
        for sample in range(samples)
    ]
    if not runs:
        return {}
    chances = runner.run(runs, (), report)[0].view(facts, len(windows), samples)  # (F, L, N)
    gained = (chances - corrupted[:, None]).mean(2)  # (F, L)
    return {layer: Effect.of(gained[:, i]) for i, layer in enumerate(windows)}


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
        self._done += runs
        if self._progress is not None:
            self._progress("tracing", self._done, self._total)


def _check(base: Base, facts: Sequence[Fact], samples: int, layers: Sequence[int], window: int) -> None:
    if not facts:
        raise ConfigError("there are no facts to trace")
    if samples < 1 or window < 1:
        raise ConfigError(
            f"{samples} samples of noise and windows of {window} layers: each must be at least 1"
        )
    if not layers or layers[0] < 0 or layers[-1] >= base.num_layers:
        raise ConfigError(
            f"layers {', '.join(map(str, layers)) or '(none)'} cannot be traced: {base.name} has layers 0 to "
            f"{base.num_layers - 1}"
        )
