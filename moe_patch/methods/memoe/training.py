"""Training a bypass: one batch of facts after the other, with replay of earlier facts and a frozen base."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moe_patch.bypass import Bypass, acting_tokens, expert_gates
from moe_patch.data.prompts import Prompt
from moe_patch.methods.memoe.losses import adaptive_weight, balance_coefficient, focal_loss, kl_divergence
from moe_patch.methods.memoe.trunk import Trunk
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers
from moe_patch.targets.tail import Reads

if TYPE_CHECKING:
    from moe_patch.methods.memoe.options import MEMoEOptions

_BETAS = (0.9, 0.95)
_SLOWER = "train more slowly (--set learning_rate=...), or open the model in another type (--dtype float32)"
_TEXTS = 64  # in a pass that only reads


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """All texts of a build, and the numbers of those of each kind; T facts, P preserved prompts."""

    all: list[Prompt]
    facts: Tensor  # (T,) prompts with answers
    about: list[Tensor]  # for each fact, prompts inside its scope
    preserved: Tensor  # (P,)
    elsewhere: list[Tensor]  # for each fact, its prompt with other subjects
    kept: list[Tensor]  # for each fact, its `keep` prompts


class Training:
    """A bypass in training, with its texts and options."""

    def __init__(self, bypass: Bypass, trunk: Trunk, texts: Texts, options: MEMoEOptions) -> None:
        self._bypass, self._trunk, self._texts, self._options = bypass, trunk, texts, options
        self._source = torch.Generator().manual_seed(options.seed)
        self._last = torch.tensor([len(text.ids) - 1 for text in texts.all])
        self._unedited = self._last_tokens(texts.preserved) if options.balances_preserved else None  # (P, V)

    def learn(
        self, new: Tensor, earlier: Tensor, expert: Tensor, g: Tensor, report: Callable[[int], None]
    ) -> None:
        """Train on facts `new` (n,), replaying `earlier` ones (m,).

        Args:
            new: (n,) numbers of the new facts.
            earlier: (m,) numbers of the facts to replay.
            expert: (T,) the expert of every fact so far.
            g: (T,) the rank of its GECE, from 0 to 1.
            report: called with the number of steps done.

        Raises:
            NumericalError: the loss is not finite.
        """
        options = self._options
        optimiser = torch.optim.AdamW(
            self._bypass.parameters(),
            lr=options.rate(self._bypass.config.width),
            betas=_BETAS,
            weight_decay=options.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warm_cosine(options.steps, options.warmup))
        for step in range(options.steps):
            facts = torch.cat([self._some(new, options.facts_per_step), self._some(earlier, options.replay)])
            loss = self._edit_loss(facts, expert, g) + self._router_loss(facts, expert)
            check_finite(loss.detach(), "the losses of training", f"at step {step}", do=_SLOWER)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            report(step + 1)

    @torch.no_grad()
    def losses(self, facts: Tensor, expert: Tensor | None) -> Tensor:
        """Negative log-likelihood (n,) of the facts' answers in nats a token.

        Args:
            facts: (n,) numbers of facts.
            expert: (T,) the expert that each fact's text goes through; None for the unedited model.

        Raises:
            NumericalError: one is not finite.
        """
        found = []
        for some in torch.split(facts, _TEXTS):
            answers = self._answers(some)
            texts = self._texts.facts[some]
            route = None if expert is None else self._decided(some, expert, texts, some[:0])[0]
            found.append(answers.nll(self._logits(texts, answers.reads, route)))
        losses = torch.cat(found).cpu()
        check_finite(losses, "the losses", lambda i: f"of fact number {int(facts[i])}")
        return losses

    @torch.no_grad()
    def choices(self, facts: Tensor) -> Tensor:
        """(n,) the expert that the router finds likeliest for each fact's prompt."""
        parts = [self._router(self._texts.facts[some]) for some in torch.split(facts, _TEXTS)]
        return torch.cat(parts)[:, : self._bypass.config.experts].argmax(-1).cpu()

    def _edit_loss(self, facts: Tensor, expert: Tensor, g: Tensor) -> Tensor:
        """w(g) times the answers' cross entropy, plus the balance term."""
        options, texts = self._options, self._texts
        answers = self._answers(facts)
        reads, count = answers.reads, len(answers.ids)
        preserved = self._some(torch.arange(len(texts.preserved)), options.balance_prompts)
        preserved = preserved if options.balances_preserved else preserved[:0]
        through = torch.arange(len(preserved)) % len(facts)  # each goes the way of this fact
        rows = torch.cat([texts.facts[facts], texts.preserved[preserved]])
        held = len(facts) + torch.arange(len(preserved))
        both = Reads(
            torch.cat([reads.row, held]),
            torch.cat([reads.index, self._last[texts.preserved[preserved]]]),
        )
        route, weight = self._decided(facts, expert, rows, through)
        logits = self._logits(rows, both, route, weight).float()  # (n + P', V)
        ranks = g[facts].to(logits.device)
        importance = adaptive_weight(ranks, options.gamma_1, options.tau) if options.adaptive else 1.0
        loss = (importance * answers.nll(logits[:count])).mean()
        if len(preserved):
            loss = loss + self._penalty(logits[count:], preserved, ranks[through.to(ranks.device)])
        if options.balances_answers:
            loss = loss - self._published_balance(logits, facts, answers, ranks)
        return loss

    def _penalty(self, logits: Tensor, preserved: Tensor, ranks: Tensor) -> Tensor:
        """The mean of c(g) KL(edited || unedited) at the ends of preserved prompts (P',), logits (P', V)."""
        assert self._unedited is not None
        unedited = self._unedited[preserved].to(logits.device)
        apart = kl_divergence(logits.log_softmax(-1), unedited)  # (P',)
        return (balance_coefficient(ranks, self._options.gamma_2) * apart).mean()

    def _published_balance(self, logits: Tensor, facts: Tensor, answers: Answers, ranks: Tensor) -> Tensor:
        """The mean of c(g) KL(edited || unedited) over the answers of facts (B,), from logits (n, V)."""
        with torch.no_grad():
            unedited = self._trunk.logits(self._texts.facts[facts], answers.reads, None).float()
        apart = kl_divergence(logits.log_softmax(-1), unedited.log_softmax(-1))  # (n,)
        return (balance_coefficient(ranks, self._options.gamma_2) * answers.mean(apart)).mean()

    def _router_loss(self, facts: Tensor, expert: Tensor) -> Tensor:
        """The focal loss of the right routes: a fact's expert inside its scope, else "leave alone"."""
        options, texts = self._options, self._texts
        inside = [(texts.facts[fact], expert[fact]) for fact in facts.tolist()]
        outside: list[Tensor] = []
        if options.scope_gate:
            for fact in facts.tolist():
                inside += [(text, expert[fact]) for text in self._some(texts.about[fact], options.per_step)]
                for beyond_it in (texts.elsewhere[fact], texts.kept[fact]):
                    outside += list(self._some(beyond_it, options.per_step))
            outside += list(self._some(texts.preserved, max(len(outside), len(facts))))
        rows = torch.stack([text for text, _ in inside] + outside)
        log_r = self._router(rows).log_softmax(-1)  # (n, routes)
        wanted = torch.stack([route for _, route in inside]).to(log_r.device)  # (n,)
        within, beyond = log_r[: len(inside)], log_r[len(inside) :]
        loss = log_r.new_zeros(())
        if options.router_loss:
            loss = loss + focal_loss(within.gather(1, wanted[:, None]), options.gamma_3).mean()
        elif options.scope_gate:  # any expert is right, but not the route "leave alone"
            loss = loss + focal_loss(within[:, :-1].logsumexp(-1), options.gamma_3).mean()
        if len(beyond):
            loss = loss + focal_loss(beyond[:, -1], options.gamma_3).mean()
        return loss

    def _router(self, texts: Tensor) -> Tensor:
        length = self._trunk.length(texts)
        prompt = self._trunk.prompt[texts, :length]
        logits: Tensor = self._bypass.router(self._trunk.states[texts, :length], prompt)
        return logits

    def _logits(
        self, texts: Tensor, reads: Reads, route: Tensor | None, weight: Tensor | float = 1.0
    ) -> Tensor:
        """Logits (n, V) at the reads.

        Args:
            texts: (B,) numbers of texts.
            reads: the tokens whose logits are wanted.
            route: the decision for each text, an expert (B,) or gates (B, n); None for the unedited model.
            weight: a factor of what is added, (B, 1, 1).
        """
        if route is None:
            return self._trunk.logits(texts, reads, None)

        def added(x: Tensor, places: Tensor) -> Tensor:
            numbers, length = texts[places], x.shape[1]
            real, prompt = self._trunk.real[numbers, :length], self._trunk.prompt[numbers, :length]
            acts = acting_tokens(real, prompt, self._options.tokens)[..., None]  # (b, S, 1)
            factor = weight[places.to(weight.device)] if isinstance(weight, Tensor) else weight
            out: Tensor = self._bypass(x, route[places.to(route.device)].to(x.device))
            return out * acts * factor

        return self._trunk.logits(texts, reads, added)

    def _decided(
        self, facts: Tensor, expert: Tensor, rows: Tensor, through: Tensor
    ) -> tuple[Tensor, Tensor | float]:
        """The decisions for texts, and a factor of what is added to them.

        A fact goes through its expert. Where experts are merged there is no one expert, and the gates are the
        router's own, as they will be when the bypass runs.

        Args:
            facts: (B,) numbers of the facts, whose texts are the first of `rows`.
            expert: (T,) the expert of every fact.
            rows: (B + P',) numbers of texts: those of the facts, then preserved prompts.
            through: (P',) the place among `facts` of the one whose way each preserved prompt goes.
        """
        config = self._bypass.config
        if config.merge != "hard":
            gates = expert_gates(self._router(rows[: len(facts)]), config)  # (B, n)
            return torch.cat([gates, gates[through.to(gates.device)].detach()]), 1.0
        if not self._options.router_loss and torch.is_grad_enabled():
            return self._own_choice(rows)
        return expert[torch.cat([facts, facts[through]])], 1.0

    def _own_choice(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The router's likeliest expert (B,), and a weight (B, 1, 1) that is 1 but has the gradient of r.

        Without the router loss, the router learns only through this weight, from the loss of the answers.
        """
        r = self._router(texts)[:, : self._bypass.config.experts].softmax(-1)
        best, route = r.max(-1)
        return route, (best / best.detach())[:, None, None]

    @torch.no_grad()
    def _last_tokens(self, texts: Tensor) -> Tensor:
        """Log-probabilities (n, V) of the unedited model's next token after each text."""
        found = [
            self._trunk.logits(some, Reads(torch.arange(len(some)), self._last[some]), None)
            .float()
            .log_softmax(-1)
            for some in torch.split(texts, _TEXTS)
        ]
        return torch.cat(found)

    def _answers(self, facts: Tensor) -> Answers:
        return Answers.of([self._texts.all[i] for i in self._texts.facts[facts].tolist()])

    def _some(self, items: Tensor, count: int) -> Tensor:
        """At most `count` of the items, drawn at random without repeats."""
        return items[torch.randperm(len(items), generator=self._source)[:count]]


def warm_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """The learning rate's factor at each step: a linear rise for a share `warmup`, then a cosine to zero."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return factor
