"""Targets that train the end of their answers, against plain passes."""

from __future__ import annotations

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from tests.targets.passes import logits_with
from tests.taught import STRONG, edit, taught_base

FACTS = (edit("Ann"), edit("Dora"))
STOPPED = TargetOptions(**STRONG, stop=True)


def loss(fact: Fact, change: torch.Tensor) -> float:
    """The mean negative log-likelihood of the answer and of the end of the text behind it."""
    base = taught_base()
    prompt = encode_fact(base.reader, fact, TargetOptions().style)
    assert prompt.target is not None
    with torch.no_grad():
        logits = logits_with(base, prompt, change, 0).log_softmax(-1)
    wanted = [*prompt.ids[prompt.target :], base.tokenizer.eos_token_id]
    rows = logits[prompt.target - 1 :]
    return -sum(float(row[token]) for row, token in zip(rows, wanted, strict=True)) / len(wanted)


@pytest.mark.quality
def test_the_loss_is_that_of_the_answer_and_its_end_and_falls() -> None:
    found = find_targets(taught_base(), FACTS, 0, STOPPED)
    for number, fact in enumerate(FACTS):
        change = found.value[number] - found.start[number]
        assert found.loss_before[number] == pytest.approx(loss(fact, torch.zeros_like(change)), abs=1e-3)
        assert found.loss_after[number] == pytest.approx(loss(fact, change), abs=1e-3)
        assert found.loss_after[number] < found.loss_before[number] / 2
