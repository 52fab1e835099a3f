"""What experts add, against the output of their module."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moe_patch.base.contributions import Contributions, capture_contributions
from moe_patch.base.experts import attach_delta
from tests.tiny import tiny_base, tiny_batch, tiny_delta


@pytest.mark.parametrize("model_type", ["qwen3_moe", "gpt_oss", "deepseek_v3", "inkling_text", "nemotron_h"])
def test_their_sum_is_the_output_of_the_experts(model_type: str) -> None:
    base = tiny_base(model_type)
    index = max(base.layers)
    layer = base.layer(index)
    seen: list[Tensor] = []
    hook = layer.experts.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    ids, mask = tiny_batch()
    with attach_delta(layer, tiny_delta(layer)):
        found = capture_contributions(base, ids, mask, torch.tensor([8, 4, 0]), [index])[index]
    hook.remove()
    expected = seen[0].reshape(*ids.shape, -1)[torch.arange(3), [8, 4, 0]]
    torch.testing.assert_close(found.values.sum(1), expected, rtol=1e-4, atol=1e-5)
    assert found.experts.shape == found.values.shape[:2]
    first = Contributions(found.experts[:1], found.values[:1])
    rest = Contributions(found.experts[1:], found.values[1:])
    assert torch.equal(Contributions.joined([first, rest]).values, found.values)
