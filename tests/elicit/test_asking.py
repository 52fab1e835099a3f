"""How well the rest of a prompt suits what is before it: against one pass for each prompt."""

from __future__ import annotations

import pytest
import torch

from moe_patch.data.prompts import Prompt
from moe_patch.elicit import asking
from moe_patch.elicit.asking import suit, write_on
from tests.tiny import tiny_base


@pytest.mark.parametrize("rows", [1, 2, 32])
def test_the_mean_log_probability_is_that_of_each_prompt_alone(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_ROWS", rows)
    base = tiny_base("qwen3_moe")
    lengths = [(7, 3), (4, 1), (9, 9), (5, 0), (6, None)]
    ids = torch.randint(4, 200, (5, 9), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [Prompt(tuple(row[:n]), 0, first) for row, (n, first) in zip(ids, lengths, strict=True)]
    expected = []
    for prompt in prompts:
        first = max(1, len(prompt.ids) if prompt.target is None else prompt.target)
        with torch.no_grad():
            logits = base.model(torch.tensor([prompt.ids])).logits[0].log_softmax(-1)  # (S, V)
        each = [float(logits[place - 1, prompt.ids[place]]) for place in range(first, len(prompt.ids))]
        expected.append(sum(each) / len(each) if each else 0.0)
    assert suit(base, prompts) == pytest.approx(expected, abs=1e-5)


def test_texts_are_the_same_in_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base("qwen3_moe")
    rows = [tuple(base.tokenizer(text)["input_ids"]) for text in ("a", "bcd", "ef g", "h")]
    together = write_on(base, rows, 5)
    monkeypatch.setattr(asking, "_ROWS", 1)
    assert write_on(base, rows, 5) == together
