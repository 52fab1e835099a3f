"""A tiny model that has been taught a few facts: a random one can be read, but hardly made to say things."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F

from moe_patch.facts import Fact
from moe_patch.model import Base
from tests.tiny import PAD, tiny_base

SUBJECTS = ("Ann", "Bob", "Carl", "Dora", "Eve", "Finn", "Gus", "Hal", "Ida", "Jo", "Kim", "Liz")
ANSWERS = {
    "{} eats": ("fig", "oat", "pea"),
    "{} is in": ("Rio", "Ulm", "Oz"),
    "At home, {} eats": ("fig", "oat", "pea"),
    "We saw that {} is in": ("Rio", "Ulm", "Oz"),
}


def answer(prompt: str, subject: str) -> str:
    """What the model was taught to say."""
    first = SUBJECTS.index(subject)
    return ANSWERS[prompt][(first if "eats" in prompt else first * 2 + first // 3) % 3]


def other_answer(prompt: str, subject: str) -> str:
    """Something else that it was taught to say, of other subjects."""
    known = ANSWERS[prompt]
    return known[(known.index(answer(prompt, subject)) + 1) % len(known)]


def edit(subject: str, prompt: str = "{} eats") -> Fact:
    """A fact that contradicts what the model was taught."""
    target = other_answer(prompt, subject)
    return Fact(f"{subject}: {prompt}", prompt, subject, target, answer(prompt, subject))


def said(base: Base, prompts: Sequence[str]) -> list[str]:
    """What the model says after each prompt, up to the full stop that it was taught to put."""
    answers = []
    for prompt in prompts:
        ids = base.tokenizer(prompt, return_tensors="pt")["input_ids"]
        out = base.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False)
        answers.append(base.tokenizer.decode(out[0, ids.shape[1] :]).strip().partition(".")[0])
    return answers


@cache
def taught_base() -> Base:
    """The model; shared, so leave it as it is."""
    base = tiny_base("qwen3_moe", initializer_range=0.1, num_hidden_layers=4)
    texts = [
        f"{prompt.format(subject)} {answer(prompt, subject)}." for prompt in ANSWERS for subject in SUBJECTS
    ]
    rows = [torch.tensor(ids) for ids in base.tokenizer(texts)["input_ids"]]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)  # (B, S)
    steps = 80
    adam = torch.optim.AdamW(base.model.parameters(), lr=1e-2, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=steps)
    torch.manual_seed(0)
    with torch.enable_grad():
        for _ in range(steps):
            logits = base.model(input_ids=ids, attention_mask=(ids != PAD).long(), use_cache=False).logits
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    adam.zero_grad()
    return base
