"""Gradients at the experts' outputs, against finite differences and against sums written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from moe_patch.base.gradients import gradient_moments, output_gradients
from moe_patch.base.model import Base
from moe_patch.errors import StatisticsError
from tests.methods.builds import snapshot, unchanged
from tests.tiny import tiny_base

IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def loss_of(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits[:, 2].double(), torch.tensor([5, 9]))


def loss_with(base: Base, layer: int, push: Tensor) -> float:
    """The loss with `push` (B*S, d_m) added to the output of a layer's experts."""
    hook = base.layer(layer).experts.register_forward_hook(lambda _m, _i, out: out + push.view_as(out))
    with torch.no_grad():
        found = float(loss_of(base.model(input_ids=IDS, attention_mask=MASK).logits))
    hook.remove()
    return found


def test_gradients_are_those_of_finite_differences() -> None:
    base = tiny_base("qwen3_moe")
    before = snapshot(base)
    found = output_gradients(base, [0, 2], IDS, MASK, loss_of)
    generator = torch.Generator().manual_seed(0)
    for layer in (0, 2):
        gradient = found[layer].gradient
        assert gradient.shape == found[layer].output.shape == (8, base.hidden_size)
        step = 1e-3 * torch.randn(gradient.shape, generator=generator)
        slope = (loss_with(base, layer, step) - loss_with(base, layer, -step)) / 2
        assert slope == pytest.approx(float((gradient * step).sum()), rel=0.03, abs=1e-7)
    assert float(found[2].gradient[3].abs().max()) == 0.0  # a token after the one that is read
    assert unchanged(base, before)
    assert all(parameter.requires_grad for parameter in base.model.parameters())


def test_the_moment_of_random_gradients_is_the_fisher_information_of_the_output() -> None:
    """With many draws of labels it is the sum over labels, each with its chance."""
    base, texts, layer = tiny_base("qwen3_moe"), [[3, 4]], 2
    ids = torch.tensor(texts)
    with torch.no_grad():
        chances = base.model(input_ids=ids).logits[0].softmax(-1)  # (2, V)
    expected = torch.zeros(base.hidden_size, base.hidden_size, dtype=torch.float64)
    for place in range(2):  # labels of different tokens are drawn apart, and their gradients have mean zero
        for label, chance in enumerate(chances[place].tolist()):

            def loss(logits: Tensor, place: int = place, label: int = label) -> Tensor:
                return -logits[0, place].log_softmax(-1)[label]

            gradient = output_gradients(base, [layer], ids, torch.ones_like(ids), loss)[layer].gradient
            expected += chance * gradient.double().T @ gradient.double() / 2
    drawn = [gradient_moments(base, texts, [layer], pad=0, seed=seed)[layer] for seed in range(150)]
    found = torch.stack(drawn).mean(0)
    assert float((found - expected).norm() / expected.norm()) < 0.35
    assert float(found.trace()) == pytest.approx(float(expected.trace()), rel=0.1)
    assert torch.equal(drawn[3], gradient_moments(base, texts, [layer], pad=0, seed=3)[layer])


def test_padding_does_not_count() -> None:
    base = tiny_base("qwen3_moe")
    texts = [[3, 4, 5, 6], [7, 8]]
    together, alone = (
        gradient_moments(base, texts, [1], pad=0, seed=1, per_pass=count)[1] for count in (2, 1)
    )
    assert together.shape == alone.shape == (base.hidden_size, base.hidden_size)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-3)


def test_no_text_has_no_moment() -> None:
    with pytest.raises(StatisticsError, match="gradients need text"):
        gradient_moments(tiny_base("qwen3_moe"), [], [1], pad=0)
