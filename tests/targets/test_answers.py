"""Where answers are predicted, and their means, against counting by hand."""

from __future__ import annotations

import torch

from moe_patch.data.prompts import Prompt
from moe_patch.targets.answers import Answers

PROMPTS = [Prompt((3, 1, 4), 0, 2), Prompt((1, 5), 0, 2), Prompt((9, 2, 6, 5), 0, 1)]  # of 1, 0, 3 tokens


def test_every_answer_token_is_read_at_the_token_before_it() -> None:
    answers = Answers.of(PROMPTS)
    assert answers.reads.row.tolist() == [0, 2, 2, 2]
    assert answers.reads.index.tolist() == [1, 0, 1, 2]
    assert answers.ids.tolist() == [4, 2, 6, 5]


def test_means_are_over_each_prompts_own_answer_and_zero_for_an_empty_one() -> None:
    answers = Answers.of(PROMPTS)
    torch.testing.assert_close(
        answers.mean(torch.tensor([1.0, 2.0, 3.0, 7.0])), torch.tensor([1.0, 0.0, 4.0])
    )
    logits = torch.randn(4, 10)
    each = -logits.log_softmax(-1)[torch.arange(4), answers.ids]
    expected = torch.stack([each[0], torch.tensor(0.0), each[1:].mean()])
    torch.testing.assert_close(answers.nll(logits), expected)


def test_prompts_without_any_answer_token_have_nothing_to_read() -> None:
    answers = Answers.of(PROMPTS[1:2])
    assert len(answers.ids) == 0
    assert answers.mean(torch.zeros(0)).tolist() == [0.0]
