"""Passes from the block on against whole passes, in several architectures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_patch.base.blocks import find_block, with_added
from moe_patch.base.opening import wrap
from moe_patch.data.prompts import Prompt
from moe_patch.methods.memoe.trunk import Trunk
from moe_patch.targets.answers import Answers
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = [Prompt(tuple(range(5, 5 + length)), 0, length - 2) for length in (4, 9, 6)]


@pytest.mark.parametrize(
    "model_type", ["qwen3_moe", "gpt_oss", "llama", "gemma2", "granitemoe", "qwen3_next", "bloom"]
)
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("beside", [0, 1000], ids=["a pass for each length", "one pass"])
def test_logits_and_states_are_those_of_a_whole_pass(
    model_type: str, layer: int, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_patch.methods.memoe.trunk.cost_beside", lambda _device: beside)
    base = wrap(tiny_model(model_type), tiny_tokenizer(), allow_dense=True)
    block = find_block(base, layer)
    answers = Answers.of(TEXTS)
    reads = answers.reads
    assert answers.ids.tolist() == [token for text in TEXTS for token in text.ids[-2:]]
    shift = torch.randn(base.hidden_size)

    def change(x: Tensor, places: Tensor) -> Tensor:
        return 0.3 * x + shift * (1 + places[:, None, None])  # another one for each text

    with torch.no_grad():
        trunks = {states: Trunk(base, block, TEXTS, states) for states in ("block-input", "final")}
        trunk = trunks["final"]
        for order in (torch.arange(3), torch.tensor([0])):
            kept = reads.row < len(order)
            some = type(reads)(reads.row[kept], reads.index[kept])
            found, plain = trunk.logits(order, some, change), trunk.logits(order, some, None)
            for number in order.tolist():
                text = torch.tensor([TEXTS[number].ids])
                at = some.index[some.row == number]
                whole = base.model(input_ids=text, output_hidden_states=True)
                close(plain[some.row == number], whole.logits[0, at])
                close(trunk.states[number, : text.shape[1]], whole.hidden_states[-1][0])
                entered: list[Tensor] = []

                def hook(_module, inputs, output, entered=entered, number=number):
                    entered.append(inputs[0])
                    return with_added(output, change(inputs[0], torch.tensor([number])))

                handle = block.module.register_forward_hook(hook)
                edited = base.model(input_ids=text).logits
                handle.remove()
                close(found[some.row == number], edited[0, at])
                close(trunks["block-input"].states[number, : text.shape[1]], entered[0][0])


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
