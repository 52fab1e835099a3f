"""Freezing a model leaves it as it was."""

from __future__ import annotations

from moe_patch.base.freezing import frozen_weights
from tests.tiny import tiny_model


def test_frozen_weights_ask_for_gradients_again_afterwards() -> None:
    model = tiny_model("llama")
    next(model.parameters()).requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    with frozen_weights(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == before
