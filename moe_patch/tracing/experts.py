"""Which experts of a layer carry facts: one by one, and in coalitions.

As in a trace by layer, a fact is run with noise at its subject, and what some experts of a layer add at the
edited token is made what it was without noise. With top-2 routing, one expert alone may bring back little,
because the other one, or one that only the noise has brought in, is still in its way. So experts are also
players of a cooperative game, whose worth is what a coalition brings back. "Others" is one more player: with
it, the experts that only the noise has brought in add nothing. All players together restore the layer's
routed experts exactly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_patch.base.contributions import Contributions
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.progress import Progress
from moe_patch.tracing.asked import PLAIN, ask_all
from moe_patch.tracing.games import Coalition, grow_coalitions, shapley_values
from moe_patch.tracing.report import Effect
from moe_patch.tracing.runs import NOISE, Run, Runner
from moe_patch.tracing.sites import Site, find_sites

MOST = 0.8
"""The share of what all experts of a layer bring back that is most of it."""


@dataclass(frozen=True, slots=True)
class ExpertEffect:
    """What one expert brings back of the facts that reach it without noise."""

    expert: int | None  # None: those that only noise brings in, taken out
    facts: int  # that reach it
    alone: Effect
    share: Effect | None  # its Shapley value; None if coalitions were not tried


@dataclass(frozen=True, slots=True)
class LayerExperts:
    """What the experts of one layer bring back, those first that bring back most."""

    layer: int
    whole: Effect  # all of them together
    experts: tuple[ExpertEffect, ...]
    grown: tuple[Effect, ...] = ()  # by coalitions of 0, 1, ... players, each with the best one to add
    needed: Effect | None = None  # the size of the first of these that brings back `MOST` of the whole


def trace_experts(
    base: Base,
    facts: Sequence[Fact],
    layers: Collection[int],
    *,
    coalitions: bool = True,
    noise_samples: int = 3,
    noise: float = NOISE,
    seed: int = 0,
    style: PromptStyle = PLAIN,
    progress: Progress | None = None,
) -> tuple[LayerExperts, ...]:
    """What the experts of some layers bring back of the base's own answers; arguments as for `trace`.

    Args:
        base: the model, as it is now.
        facts: of which it is asked.
        layers: with experts.
        coalitions: whether to try coalitions of experts too.
        noise_samples: drawings of noise for each fact.
        noise: its size, in standard deviations of the embeddings of the facts' subjects.
        seed: of the noise, and of the orders in which many experts join.
        style: how facts become text, and which token is restored.
        progress: called with the stage "experts".

    Raises:
        ConfigError: there are no facts, samples or layers.
        CaptureError: the embeddings cannot be changed, or the experts cannot be observed.
        ModelError: a layer is dense or out of range.
        NumericalError: the logits, a key or a gate is not finite.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    if not facts or noise_samples < 1 or not layers:
        raise ConfigError(
            f"{len(facts)} facts, {noise_samples} samples of noise and {len(layers)} layers: expected at "
            "least 1 of each"
        )
    wanted = sorted(set(layers))
    asked = ask_all(base, facts, style)
    runner = Runner(base, asked, noise, seed)
    clean = runner.contributions([Run(i, None) for i in range(len(asked))], wanted)
    noisy = [Run(i, sample) for i in range(len(asked)) for sample in range(noise_samples)]
    corrupted = runner.contributions(noisy, wanted)
    lost = runner.run(noisy)[0].view(len(asked), noise_samples)  # (F, N)
    sites = find_sites(base, "experts")
    found = []
    for done, layer in enumerate(wanted):
        game = _Game(runner, sites[layer], lost, clean[layer], corrupted[layer])
        experts = base.layer(layer).num_experts
        found.append(_play(game, layer, experts, coalitions=coalitions, seed=seed))
        if progress is not None:
            progress("experts", done + 1, len(wanted))
    return tuple(found)


class _Game:
    """The game of one layer's experts in each fact: what coalitions bring back, the mean over noise.

    Players 0 to K - 1 are the experts that the fact reaches without noise; player K is the others.
    """

    def __init__(
        self, runner: Runner, site: Site, lost: Tensor, clean: Contributions, corrupted: Contributions
    ) -> None:
        self.facts, self._samples = lost.shape
        self.reached = clean.experts  # (F, K)
        self.players = self.reached.shape[1] + 1
        self._runner, self._site, self._lost = runner, site, lost
        self._clean = clean.values  # (F, K, d_m)
        shape = (self.facts, self._samples, -1)
        slots = corrupted.experts.view(shape)  # (F, N, K)
        values = corrupted.values.view(*shape, self._clean.shape[-1])  # (F, N, K, d_m)
        same = (self.reached[:, None, :, None] == slots[:, :, None]).to(values)  # (F, N, K, K)
        self._noisy = same @ values  # (F, N, K, d_m) what a fact's own experts add under noise
        self._others = values.sum(2) - self._noisy.sum(2)  # (F, N, d_m)
        self._known: dict[tuple[int, Coalition], float] = {}

    @property
    def everyone(self) -> Coalition:
        """All players."""
        return frozenset(range(self.players))

    def worth(self, asked: Sequence[tuple[int, Coalition]]) -> list[float]:
        """By how much coalitions raise the probability of the answers of facts, given by number."""
        new = [pair for pair in dict.fromkeys(asked) if pair not in self._known]
        runs = [
            Run(fact, sample, {self._site: self._output(fact, sample, coalition)})
            for fact, coalition in new
            for sample in range(self._samples)
        ]
        if runs:
            chances = self._runner.run(runs)[0].view(len(new), self._samples)  # (C, N)
            gained = (chances - self._lost[[fact for fact, _ in new]]).mean(1)
            self._known |= zip(new, gained.tolist(), strict=True)
        return [self._known[pair] for pair in asked]

    def _output(self, fact: int, sample: int, coalition: Coalition) -> Tensor:
        """What the layer's experts add with a coalition restored, (d_m)."""
        restored = torch.tensor([player in coalition for player in range(self.players)])[:, None]
        own = torch.where(restored[:-1], self._clean[fact], self._noisy[fact, sample])  # (K, d_m)
        return own.sum(0) + (~restored[-1]) * self._others[fact, sample]


def _play(game: _Game, layer: int, num_experts: int, *, coalitions: bool, seed: int) -> LayerExperts:
    facts = range(game.facts)
    pairs = [(fact, frozenset((player,))) for fact in facts for player in range(game.players)]
    alone = torch.tensor(game.worth(pairs), dtype=torch.float64).view(game.facts, game.players)  # (F, P)
    whole = torch.tensor(game.worth([(fact, game.everyone) for fact in facts]), dtype=torch.float64)  # (F,)
    if not coalitions:
        return LayerExperts(layer, Effect.of(whole), _by_expert(game.reached, num_experts, alone, None))
    shares = shapley_values(game.worth, game.facts, game.players, seed)  # (F, P)
    _, grown = grow_coalitions(game.worth, game.facts, game.players)  # (F, P + 1)
    enough = grown >= MOST * whole[:, None]
    sizes = enough.to(torch.float64).argmax(1)[whole > 0].double()  # of the first one that is enough
    return LayerExperts(
        layer,
        Effect.of(whole),
        _by_expert(game.reached, num_experts, alone, shares),
        tuple(Effect.of(grown[:, size]) for size in range(game.players + 1)),
        Effect.of(sizes) if len(sizes) else None,
    )


def _by_expert(
    reached: Tensor, num_experts: int, alone: Tensor, shares: Tensor | None
) -> tuple[ExpertEffect, ...]:
    """The effects of each expert over the facts that reach it, those first that bring back most in all.

    Args:
        reached: (F, K) experts; E where a slot reached none.
        num_experts: E.
        alone: (F, K + 1) what each brings back alone, the others last.
        shares: (F, K + 1) Shapley values.
    """
    everyone = torch.cat([reached, torch.full((len(reached), 1), -1)], dim=1)  # (F, K + 1)
    decisive = alone if shares is None else shares
    sums = {
        expert: float(decisive[everyone == expert].sum())
        for expert in everyone.unique().tolist()
        if expert < num_experts
    }
    return tuple(
        ExpertEffect(
            None if expert < 0 else expert,
            int((everyone == expert).sum()),
            Effect.of(alone[everyone == expert]),
            None if shares is None else Effect.of(shares[everyone == expert]),
        )
        for expert in sorted(sums, key=lambda expert: -sums[expert])
    )
