"""Runs of a base on facts with noise at their subjects and with states restored, many to a pass.

A run is independent of the others in its pass, so it gives what it would give alone, but for rounding.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from moe_patch.base.contributions import Contributions, capture_contributions
from moe_patch.base.embeddings import embed, noisy_embeddings
from moe_patch.base.model import Base
from moe_patch.base.playback import playing_back
from moe_patch.data.prompts import pad_right, pad_token
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import plain_logits
from moe_patch.tracing.asked import Asked
from moe_patch.tracing.sites import Site, batch_places, recorded_outputs, recording, restoring

logger = logging.getLogger(__name__)

Played: TypeAlias = tuple[Sequence[nn.Module], Any]
"""Decoder layers that compute nothing in a pass, and what the last of them returns."""

NOISE = 3.0  # standard deviations of the subjects' embeddings, as in ROME
ROWS = 64  # in a pass
_KEPT = 2**28  # most numbers of the layers' outputs that are kept
_ROUNDING = 0.05  # nats by which half precision may move an answer


@dataclass(frozen=True, slots=True)
class Run:
    """One row of a pass."""

    asked: int  # index of the fact
    sample: int | None  # of the noise; None for none
    restored: Mapping[Site, Tensor] = field(default_factory=dict)  # (d_m,) by site, put at the edited token


class Runner:
    """Runs facts with and without noise.

    Noise is drawn for each fact and sample from a seed of its own, so it depends neither on the other facts
    nor on how runs are put into passes.
    """

    def __init__(self, base: Base, asked: Sequence[Asked], noise: float, seed: int) -> None:
        self._base, self._asked, self._seed = base, asked, seed
        self._resumes: bool | None = None  # whether passes may start in the middle; None until it was tried
        tokens = [one.prompt.ids[place] for one in asked for place in one.subject]
        #: the standard deviation of the noise
        self.deviation = noise * float(embed(base, tokens).std())

    @torch.no_grad()
    def run(
        self,
        runs: Sequence[Run],
        sites: Sequence[Site] = (),
        report: Callable[[int], None] = lambda runs: None,
    ) -> tuple[Tensor, dict[Site, Tensor]]:
        """The probability (R,) of each run's answer, and its states (R, d_m) at the edited token by site.

        Args:
            runs: R of them; those of similar length should stand together.
            sites: whose states are wanted.
            report: called after each pass, with its number of runs.

        Raises:
            CaptureError: as for `noisy_embeddings`.
        """
        chances, seen = [], []
        for first in range(0, len(runs), ROWS):
            some = runs[first : first + ROWS]
            chance, states = self._pass(some, sites)
            chances.append(chance)
            seen.append(states)
            report(len(some))
        return torch.cat(chances), {site: torch.cat([states[site] for states in seen]) for site in sites}

    @torch.no_grad()
    def restored(
        self,
        runs: Sequence[Run],
        windows: Sequence[Mapping[Site, Tensor]],
        report: Callable[[int], None] = lambda runs: None,
    ) -> Tensor:
        """The probability (W, R) of each run's answer with each of W sets of states restored.

        What lies below the lowest of these is the same for all of them and is computed once, if the model can
        be started in the middle. The first pass of the runs tries that.

        Args:
            runs: R of them, with nothing restored.
            windows: the states (F, d_m) of all facts by site.
            report: called after each pass, with its number of runs.

        Raises:
            CaptureError: as for `noisy_embeddings`.
        """
        below = [min(_unchanged(site) for site in window) for window in windows]
        parts = []
        for some in self._chunks(runs, len(set(below))):
            with recorded_outputs(self._base, {layers - 1 for layers in below if layers}) as outputs:
                chances, _ = self._pass(some)
            resumes = self._can_resume(some, outputs, chances)
            found = []
            for layers, window in zip(below, windows, strict=True):
                changed = [replace(run, restored=_states_of(run, window)) for run in some]
                played = self._lowest(layers, outputs) if resumes else None
                found.append(self._pass(changed, played=played)[0])
                report(len(some))
            parts.append(torch.stack(found))
        return torch.cat(parts, dim=1)

    def _chunks(self, runs: Sequence[Run], layers: int) -> Iterator[Sequence[Run]]:
        """Runs for one pass each, few enough for the outputs of a number of layers to be kept."""
        longest = max(len(self._asked[run.asked].prompt.ids) for run in runs)
        rows = max(1, min(ROWS, _KEPT // (longest * self._base.hidden_size * max(1, layers))))
        for first in range(0, len(runs), rows):
            yield runs[first : first + rows]

    def _can_resume(self, runs: Sequence[Run], outputs: Mapping[int, Any], chances: Tensor) -> bool:
        """Whether passes that start in the middle are right. It is tried once, at the highest layer."""
        if self._resumes is None and outputs:
            config = self._base.model.config.get_text_config()
            self._resumes = not getattr(config, "num_kv_shared_layers", 0)  # they read keys of lower layers
            if self._resumes:
                again, _ = self._pass(runs, played=self._lowest(max(outputs) + 1, outputs))
                self._resumes = torch.allclose(again.log(), chances.log(), rtol=0, atol=_ROUNDING)
            if not self._resumes:
                logger.info("%s cannot be started in the middle: every pass is a whole one", self._base.name)
        return bool(self._resumes)

    def _lowest(self, layers: int, outputs: Mapping[int, Any]) -> Played | None:
        """The lowest layers, with what the last of them returned."""
        return (list(self._base.decoder_layers[:layers]), outputs[layers - 1]) if layers else None

    def contributions(self, runs: Sequence[Run], layers: Collection[int]) -> dict[int, Contributions]:
        """What experts add at the edited token of each run, by layer. Nothing is restored in these runs.

        Raises:
            CaptureError: as for `noisy_embeddings` and `capture_contributions`.
            ModelError: a layer is dense or out of range.
            NumericalError: a key or a gate is not finite.
        """
        parts = []
        for first in range(0, len(runs), ROWS):
            some = runs[first : first + ROWS]
            batch = pad_right(
                [self._asked[run.asked].prompt for run in some], pad_token(self._base.tokenizer)
            )
            with noisy_embeddings(self._base, self._noises(some, batch.ids.shape[1])):
                parts.append(capture_contributions(self._base, batch.ids, batch.mask, batch.edited, layers))
        return {layer: Contributions.joined([part[layer] for part in parts]) for layer in layers}

    def _pass(
        self, runs: Sequence[Run], sites: Sequence[Site] = (), played: Played | None = None
    ) -> tuple[Tensor, dict[Site, Tensor]]:
        prompts = [self._asked[run.asked].prompt for run in runs]
        length = max(len(prompt.ids) for prompt in prompts)
        edited = [prompt.edited for prompt in prompts]
        answers = Answers.of(prompts)
        rows = torch.arange(len(runs))
        with (
            noisy_embeddings(self._base, self._noises(runs, length)),
            nullcontext() if played is None else playing_back(*played),
            restoring(_by_site(runs, edited, length)),
            recording(sites, rows, torch.tensor(edited), length) as seen,
        ):
            nll = answers.nll(plain_logits(self._base, prompts, answers.reads)).cpu()  # (B,) means
        return (-nll.double() * answers.lengths).exp(), seen

    def _noises(self, runs: Sequence[Run], length: int) -> Tensor:
        """The noise (B, S, d_m) of a pass, at the subjects of the runs that have some."""
        noise = torch.zeros(len(runs), length, self._base.hidden_size)
        for row, run in enumerate(runs):
            if run.sample is not None:
                noise[row, list(self._asked[run.asked].subject)] = self._noise(run.asked, run.sample)
        return noise

    def _noise(self, asked: int, sample: int) -> Tensor:
        """The noise (n, d_m) at the n tokens of a subject."""
        one = self._asked[asked]
        name = "\n".join((str(self._seed), str(sample), one.fact.text, one.fact.subject))
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1
        shape = len(one.subject), self._base.hidden_size
        return self.deviation * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _unchanged(site: Site) -> int:
    """How many of the lowest layers give, but at the site itself, what they give if nothing is restored."""
    return site.layer + 1 if site.kind == "stream" else site.layer


def _states_of(run: Run, window: Mapping[Site, Tensor]) -> dict[Site, Tensor]:
    return {site: states[run.asked] for site, states in window.items()}


def _by_site(runs: Sequence[Run], edited: Sequence[int], length: int) -> dict[Site, tuple[Tensor, Tensor]]:
    """What to put where in a pass: places (n,) and states (n, d_m) by site."""
    rows: dict[Site, list[int]] = {}
    states: dict[Site, list[Tensor]] = {}
    for row, run in enumerate(runs):
        for site, state in run.restored.items():
            rows.setdefault(site, []).append(row)
            states.setdefault(site, []).append(state)
    return {
        site: (
            batch_places(rows[site], [edited[row] for row in rows[site]], length),
            torch.stack(states[site]),
        )
        for site in rows
    }
