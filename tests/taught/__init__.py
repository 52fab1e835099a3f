"""A tiny model that has been taught a few facts: a random one can be read, but hardly made to say things.

It is a file, made by train.py, so that it is the same with every processor and every torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from tests import published
from tests.tiny import tiny_tokenizer

MODEL = Path(__file__).parent / "model"

STRONG = published.TARGETS | {"steps": 100, "learning_rate": 0.1, "clamp": 8.0, "weight_decay": 0.1}
"""A search for target values that makes this model say anything. At higher rates it swings at its end."""

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
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return wrap(model.eval(), tiny_tokenizer(), name="taught")
