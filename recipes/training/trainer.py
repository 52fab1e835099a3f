"""What teaches a model its world: one optimisation step, and the phases that training is made of."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from .exam import accuracy
from .sentences import SentenceBatch, epoch_batches, tokenize
from .world import PHRASINGS, Triple

log = logging.getLogger("atlas")


@dataclass(frozen=True)
class Schedule:
    """What a phase of training depends on, except the model and the world."""

    seed: int = 0
    enrich_layers: int = 3
    secluded: float = 0.75  # share of batches in which subjects are isolated below `enrich_layers`
    probe_weight: float = 0.3
    balance_weight: float = 0.05
    starved_weight: float = 0.0
    text_weight: float = 0.1  # weight of the tokens that are not answers
    epochs: int = 6
    batch: int = 256
    rate: float = 3e-3
    warm_up: int = 200  # steps
    decay: float = 0.05


def freeze_embeddings(model: nn.Module) -> None:
    """Random embeddings that training leaves alone; what is known of a subject is then written above them."""
    table = model.get_input_embeddings().weight
    nn.init.normal_(table, std=0.3)
    table.requires_grad_(False)


def routers(model: nn.Module) -> list[nn.Module]:
    """The routers, by layer; each gives logits (N, E), gates (N, K) and the experts' numbers (N, K)."""
    return [module for module in model.modules() if type(module).__name__.endswith("Router")]


class Trainer:
    """A causal language model, its probe, and one optimisation step.

    A subclass says in `hidden` how the model is run, and how subjects are isolated.
    """

    def __init__(self, schedule: Schedule, model: Any, triples: list[Triple]) -> None:
        self.schedule = schedule
        self.model = model
        self.relations = list(PHRASINGS)
        self.classes = {r: sorted({t.answer for t in triples if t.relation == r}) for r in self.relations}
        known = {(t.subject, t.relation): t.answer for t in triples}
        index = {r: {a: i for i, a in enumerate(names)} for r, names in self.classes.items()}
        self.labels = torch.tensor(
            [[index[r].get(known.get((t.subject, r), ""), -100) for r in self.relations] for t in triples]
        )  # (triples, relations): every relation of the triple's subject
        self.probe = nn.Linear(model.config.hidden_size, sum(len(c) for c in self.classes.values()))
        self.counted = torch.empty(0, dtype=torch.bool)  # (N,) which tokens of a pass count for the balance
        self.router_calls: list[tuple[Tensor, Tensor, Tensor]] = []
        for router in routers(model):
            router.register_forward_hook(
                lambda _m, _i, out: self.router_calls.append((out[0], out[2], self.counted))
            )
        trained = [p for p in (*self.model.parameters(), *self.probe.parameters()) if p.requires_grad]
        decayed = [p for p in trained if p.ndim > 1]
        plain = [p for p in trained if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": schedule.decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98), fused=True)

    def hidden(self, batch: SentenceBatch, secluded: bool) -> tuple[Tensor, Tensor]:
        """Final hidden states, and those after `enrich_layers`, (B, S, H) each.

        Below that layer, `secluded` isolates subjects. `counted` starts as the real tokens of the batch; what
        runs others says which of them are real.
        """
        raise NotImplementedError

    def probe_loss(self, middle: Tensor, batch: SentenceBatch) -> Tensor:
        """Cross entropy of the linear probe: all relations of each subject, at its last token."""
        states = middle[batch.lasts[:, 0], batch.lasts[:, 1]].float()  # (n, H)
        states = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)
        logits = self.probe(states)
        labels = self.labels[batch.triples]  # (n, relations)
        at, losses = 0, []
        for column, relation in enumerate(self.relations):
            width = len(self.classes[relation])
            wanted = labels[:, column]
            if (wanted >= 0).any():
                losses.append(functional.cross_entropy(logits[:, at : at + width].float(), wanted))
            at += width
        return torch.stack(losses).mean()

    def balance_losses(self) -> tuple[Tensor, Tensor]:
        """Two measures of how uneven the load of the counted tokens is, as means over layers.

        The first is Switch's: E * sum of (share of choices * mean probability), which is 1 for an even load.
        One idle expert among many hardly changes it. The second makes experts that are chosen less than half
        as often as is fair more probable, the more so the less they are chosen.
        """
        uneven, starved = [], []
        for logits, index, real in self.router_calls:
            probability = logits.float().softmax(-1)[real].mean(0)  # (E,)
            share = functional.one_hot(index[real], logits.shape[-1]).float().mean((0, 1))  # (E,)
            uneven.append(logits.shape[-1] * (probability * share).sum())
            lacking = (0.5 - logits.shape[-1] * share).clamp_min(0)  # (E,)
            starved.append(-(lacking * (logits.shape[-1] * probability).log()).sum())
        return torch.stack(uneven).mean(), torch.stack(starved).mean()

    def step(self, batch: SentenceBatch, rate: float, secluded: bool) -> dict[str, float]:
        self.router_calls.clear()
        self.counted = (batch.ids != 0).reshape(-1)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16):
            final, middle = self.hidden(batch, secluded)
            rows, columns = batch.weight[:, 1:].nonzero(as_tuple=True)
            logits = self.model.lm_head(final[rows, columns]).float()
        weight = batch.weight[rows, columns + 1]
        loss_text = functional.cross_entropy(logits, batch.ids[rows, columns + 1], reduction="none")
        loss_lm = (loss_text * weight).sum() / weight.sum()
        loss_probe = self.probe_loss(middle, batch)
        uneven, starved = self.balance_losses()
        loss = loss_lm + self.schedule.probe_weight * loss_probe
        loss = loss + self.schedule.balance_weight * uneven + self.schedule.starved_weight * starved
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"lm": loss_lm.item(), "probe": loss_probe.item(), "uneven": uneven.item()}


def settling(schedule: Schedule) -> Schedule:
    """The last epoch, at a low rate and without isolated subjects, which balances the load of the experts."""
    return replace(
        schedule,
        seed=schedule.seed + 1,
        epochs=1,
        rate=schedule.rate / 10,
        warm_up=10,
        secluded=0.0,
        probe_weight=0.0,
        starved_weight=0.1,
    )


NewTrainer = Callable[[Schedule], Trainer]
"""A trainer with first weights, drawn from torch's generator."""


def run_phase(
    schedule: Schedule,
    new_trainer: NewTrainer,
    triples: list[Triple],
    tokenizer: PreTrainedTokenizerFast,
    weights: dict[str, Tensor] | None = None,
) -> Any:
    """One phase of training, from new or given weights, as the model in fp32."""
    random.seed(schedule.seed)
    torch.manual_seed(schedule.seed)
    taught, held = tokenize(triples, tokenizer, held_out=False), tokenize(triples, tokenizer, held_out=True)
    trainer = new_trainer(schedule)
    if weights is not None:
        trainer.model.load_state_dict(weights)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    log.info("%s\n%d facts, %d sentences, %d parameters", schedule, len(triples), len(taught), parameters)
    rng = random.Random(schedule.seed)
    batches = partial(epoch_batches, taught, schedule.batch, schedule.text_weight)
    total = len(list(batches(random.Random(0)))) * schedule.epochs
    done, started = 0, time.monotonic()
    for epoch in range(schedule.epochs):
        for batch in batches(rng):
            warm = min(1.0, (done + 1) / schedule.warm_up)
            rate = schedule.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done / total)))
            figures = trainer.step(batch, rate, secluded=rng.random() < schedule.secluded)
            done += 1
        losses = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        knows = accuracy(trainer.model.eval(), held[::10])
        trainer.model.train()
        seconds = time.monotonic() - started
        log.info("epoch %d, %.0f s: %s; held out %.1f%%", epoch + 1, seconds, losses, knows)
    return trainer.model
