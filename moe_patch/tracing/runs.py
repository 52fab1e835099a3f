"""Runs of a base on facts with noise at their subjects and with states restored, many to a pass.

A run is independent of the others in its pass, so it gives what it would give alone, but for rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from moe_patch.base.contributions import Contributions, capture_contributions
from moe_patch.base.decoding import continue_rows
from moe_patch.base.embeddings import embed, noisy_embeddings
from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import Prompt, PromptStyle, encode_fact, pad_right, pad_token, subject_tokens
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import plain_logits
from moe_patch.tracing.sites import Site, batch_places, recording, restoring

PLAIN = PromptStyle()
NOISE = 3.0  # standard deviations of the subjects' embeddings, as in ROME
ROWS = 64  # in a pass
ANSWER = 3  # tokens of an answer that the base gives itself


@dataclass(frozen=True, slots=True)
class Asked:
    """A fact as it is traced: its prompt, and the answer that the base gives itself."""

    fact: Fact
    prompt: Prompt  # with that answer
    subject: tuple[int, ...]  # indices of the subject's tokens
    answer: str
    known: bool  # whether the answer is the fact's true one


@dataclass(frozen=True, slots=True)
class Run:
    """One row of a pass."""

    asked: int  # index of the fact
    sample: int | None  # of the noise; None for none
    restored: Mapping[Site, Tensor] = field(default_factory=dict)  # (d_m,) by site, put at the edited token


def ask_all(base: Base, facts: Sequence[Fact], style: PromptStyle) -> list[Asked]:
    """The facts with what the base says of them: the true answer if greedy decoding gives it.

    Raises:
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_answer`.
        TargetError: as for `encode_fact`.
    """
    prompts = [encode_fact(base.reader, fact, style, answer=False) for fact in facts]
    true = [_true_answer(base, fact, style) for fact in facts]
    asked = []
    for first in range(0, len(facts), ROWS):
        some = range(first, min(first + ROWS, len(facts)))
        length = max(ANSWER, *(len(true[i]) for i in some))
        for prompt in (prompts[i] for i in some):
            base.reader.check_room(prompt.ids, length, "a fact's prompt")
        for i, said in zip(some, continue_rows(base, [prompts[i].ids for i in some], length), strict=True):
            known = bool(true[i]) and said[: len(true[i])] == true[i]
            answer = true[i] if known else said[:ANSWER]
            ids = prompts[i].ids
            asked.append(
                Asked(
                    facts[i],
                    Prompt(ids + answer, prompts[i].edited, len(ids)),
                    subject_tokens(base.reader, facts[i], style),
                    str(base.tokenizer.decode(answer)),
                    known,
                )
            )
    return asked


def _true_answer(base: Base, fact: Fact, style: PromptStyle) -> tuple[int, ...]:
    """The tokens of a fact's true answer; none if it is not known."""
    if fact.target_true is None:
        return ()
    reading = base.reader.read_answer(fact.text, fact.target_true, chat=style.chat, name=f"fact {fact.id}")
    return reading.answer


class Runner:
    """Runs facts with and without noise.

    Noise is drawn for each fact and sample from a seed of its own, so it depends neither on the other facts
    nor on how runs are put into passes.
    """

    def __init__(self, base: Base, asked: Sequence[Asked], noise: float, seed: int) -> None:
        self._base, self._asked, self._seed = base, asked, seed
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

    def _pass(self, runs: Sequence[Run], sites: Sequence[Site]) -> tuple[Tensor, dict[Site, Tensor]]:
        prompts = [self._asked[run.asked].prompt for run in runs]
        length = max(len(prompt.ids) for prompt in prompts)
        edited = [prompt.edited for prompt in prompts]
        answers = Answers.of(prompts)
        rows = torch.arange(len(runs))
        with (
            noisy_embeddings(self._base, self._noises(runs, length)),
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
