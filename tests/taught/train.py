"""Train the model of this folder: `python -m tests.taught.train` writes it anew.

Two things, which atlas's training has as well, make edits of a model this small well-conditioned: a change at
one subject then says what it should and is not felt at other tokens.

* A linear probe, dropped afterwards, tells from the first layer's output whose last token a token is, if
  anybody's. The first layer's keys of two subjects are therefore far apart.
* In half of what is learned from, a subject sees itself alone, and what follows sees its last token alone.
  What is known of a subject is therefore read where edits are made.

Rounding decides the last digits of the weights: another processor or another torch writes another file that
says the same. That is why tests open the file and do not train.
"""

from __future__ import annotations

from dataclasses import dataclass

import click
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_patch.base.model import Base
from tests.taught import ANSWERS, MODEL, SUBJECTS, answer
from tests.tiny import PAD, tiny_base

STEPS, RATE, DECAY = 400, 3e-3, 0.1
NOBODY = len(SUBJECTS)


@dataclass(frozen=True)
class Lesson:
    """B sentences of S tokens, one token a byte, padded on the right."""

    ids: Tensor  # (B, S)
    answers: Tensor  # (B, S) bool: which tokens are an answer's
    subject: Tensor  # (B, S): whose last token each is, or NOBODY
    plain: Tensor  # (B, 1, S, S): what is added to attention, so that a token sees those before it
    secluded: Tensor  # (B, 1, S, S): so that a subject sees itself alone, and is seen by its last token alone


def lesson(base: Base) -> Lesson:
    """What the model is taught."""
    taught = [(prompt, subject) for prompt in ANSWERS for subject in SUBJECTS]
    texts = [f"{prompt.format(subject)} {answer(prompt, subject)}." for prompt, subject in taught]
    rows = [torch.tensor(ids) for ids in base.tokenizer(texts)["input_ids"]]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    width = ids.shape[1]
    plain = (torch.ones(width, width).tril() * (ids != PAD)[:, None]).bool()  # (B, S, S)
    secluded, answers, whose = plain.clone(), torch.zeros_like(ids).bool(), torch.full_like(ids, NOBODY)
    for row, (prompt, subject) in enumerate(taught):
        begin = prompt.index("{}")
        last = begin + len(subject) - 1
        secluded[row, begin : last + 1, :begin] = False
        secluded[row, last + 1 :, begin:last] = False
        answers[row, len(prompt.format(subject)) : len(texts[row])] = True
        whose[row, last] = SUBJECTS.index(subject)
    added = [torch.zeros(seen.shape).masked_fill(~seen, -1e9)[:, None] for seen in (plain, secluded)]
    return Lesson(ids, answers, whose, *added)


def losses(base: Base, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The cross-entropy of all tokens but the first, (B, S - 1); the first layer's output, (B, S, d_m)."""
    out = base.model(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True)
    loss = F.cross_entropy(out.logits[:, :-1].mT, ids[:, 1:], ignore_index=PAD, reduction="none")
    return loss, out.hidden_states[1]


def train() -> tuple[Base, float]:
    """The model, and the largest loss of a token of an answer."""
    base = tiny_base("qwen3_moe", initializer_range=0.1, num_hidden_layers=4)
    given = lesson(base)
    there = given.ids != PAD
    probe = nn.Sequential(nn.RMSNorm(base.hidden_size), nn.Linear(base.hidden_size, NOBODY + 1))
    parameters = [*base.model.parameters(), *probe.parameters()]
    adam = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, RATE, total_steps=STEPS)
    for _ in range(STEPS):
        adam.zero_grad()
        for mask in (given.plain, given.secluded):
            loss, first = losses(base, given.ids, mask)
            told = F.cross_entropy(probe(first[there]), given.subject[there])
            ((loss[there[:, 1:]].mean() + told) / 2).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        adam.step()
        schedule.step()
    with torch.no_grad():
        loss, _ = losses(base, given.ids, given.plain)
    return base, float(loss[given.answers[:, 1:]].max())


@click.command()
def main() -> None:
    """Write the model, and say how well it knows what it was taught."""
    torch.set_num_threads(1)
    base, worst = train()
    base.model.save_pretrained(MODEL)
    (MODEL / "generation_config.json").unlink()  # which says nothing that config.json does not
    size = sum(file.stat().st_size for file in MODEL.iterdir())
    click.echo(f"{MODEL}: {size:,} bytes; no token of an answer has a loss over {worst:.4f}")


if __name__ == "__main__":
    main()
