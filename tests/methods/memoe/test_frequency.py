"""METEOR and GECE against examples computed by hand, and what the model is asked."""

from __future__ import annotations

import pytest
import torch
from wordfreq import word_frequency as share_of

from moe_patch.base.blocks import find_block
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.errors import ConfigError
from moe_patch.methods.memoe.frequency import Knowledge, gece, knowledge_of, percentile_rank, word_frequency
from moe_patch.methods.memoe.meteor import meteor_score
from tests.tiny import tiny_base


@pytest.mark.parametrize(
    ("said", "wanted", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", 1 - 0.5 / 6**3),
        ("on the mat sat the cat", "the cat sat on the mat", 1 - 0.5 * (3 / 6) ** 3),
        ("Rio", "Rio de Janeiro", 10 / 3 / (1 / 3 + 9) * 0.5),  # P 1, R 1/3, one chunk of one match
        ("editing models", "edited model", 1 - 0.5 / 2**3),  # by their stems
        ("a red house", "the blue sea", 0.0),
        ("", "Rio", 0.0),
    ],
)
def test_meteor(said: str, wanted: str, expected: float) -> None:
    assert meteor_score(said, wanted) == pytest.approx(expected)


def test_gece_of_a_worked_example() -> None:
    """Two facts: |0.5 - 0.9| / (1e-3 * 5) and |0 - 0.25| / (1e-4 * 5); E[grad] is (1.5, 1)."""
    knowledge = Knowledge(
        meteor=torch.tensor([0.5, 0.0]),
        probability=torch.tensor([0.9, 0.25]),
        word_frequency=torch.tensor([1e-3, 1e-4]),
        gradient=torch.tensor([[2.0, 2.0], [1.0, 0.0]]),
    )
    mean = knowledge.gradient.mean(0)
    assert (knowledge.gradient @ mean).tolist() == [5.0, 1.5]
    assert gece(knowledge, mean).tolist() == pytest.approx([0.4 / 5e-3, 0.25 / 1.5e-4])


def test_a_gradient_against_all_others_counts_as_next_to_nothing_and_not_as_negative() -> None:
    knowledge = Knowledge(torch.ones(1), torch.zeros(1), torch.ones(1), gradient=torch.tensor([[-1.0, 0.0]]))
    assert gece(knowledge, torch.tensor([2.0, 0.0])).tolist() == pytest.approx([1 / (1e-3 * 4)])


def test_ranks_lie_between_nought_and_one_and_ties_share_theirs() -> None:
    known = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert percentile_rank(known, known).tolist() == pytest.approx([0.875, 0.125, 0.5, 0.5])


def test_word_frequency_is_the_mean_over_the_words() -> None:
    expected = (share_of("rare", "en") + share_of("words", "en")) / 2
    assert word_frequency("Rare words!", "en") == pytest.approx(expected)
    assert word_frequency("qxzzyqvv", "en") == 1e-9
    with pytest.raises(ConfigError, match="language 'xx'"):
        meteor_score("a", "b", "xx")


def test_gradients_of_a_batch_are_those_of_single_facts_by_finite_differences() -> None:
    base = tiny_base("qwen3_moe", initializer_range=0.1)
    block = find_block(base, 1)
    facts = [Fact(str(i), "{} is in", name, "Rio", "Ulm") for i, name in enumerate(("Ann", "Barbara"))]
    found = knowledge_of(base, block, facts, PromptStyle(), "en")
    alone = [knowledge_of(base, block, [fact], PromptStyle(), "en") for fact in facts]
    torch.testing.assert_close(
        found.gradient, torch.cat([one.gradient for one in alone]), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(found.probability, torch.cat([one.probability for one in alone]))

    def nll(shift: torch.Tensor) -> float:
        hook = block.module.register_forward_hook(lambda _m, _i, out: out + shift)
        ids = base.tokenizer(f"{facts[0].text} Ulm", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs = base.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        hook.remove()
        return -float(logprobs[-len(" Ulm") :].mean())

    direction = torch.randn(base.hidden_size)
    slope = (nll(1e-2 * direction) - nll(-1e-2 * direction)) / 2e-2
    assert float(found.gradient[0] @ direction) == pytest.approx(slope, rel=0.05, abs=1e-3)
