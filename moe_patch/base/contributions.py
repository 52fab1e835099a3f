"""What each expert that a token reaches adds to the output of its layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import align_module_device
from torch import Tensor

from moe_patch.base.capture import capture_keys
from moe_patch.base.experts import expert_output
from moe_patch.base.model import Base


@dataclass(frozen=True, slots=True)
class Contributions:
    """What one layer's experts add at N tokens. Their sum over the slots is the output of the experts."""

    experts: Tensor  # (N, K); E where a slot reached no expert
    values: Tensor  # (N, K, d_m) fp32; zero where a slot reached no expert

    @classmethod
    def joined(cls, parts: Sequence[Contributions]) -> Contributions:
        """The tokens of several parts in one, in their order."""
        return cls(torch.cat([part.experts for part in parts]), torch.cat([part.values for part in parts]))


@torch.no_grad()
def capture_contributions(
    base: Base, input_ids: Tensor, attention_mask: Tensor | None, positions: Tensor, layers: Iterable[int]
) -> dict[int, Contributions]:
    """The contributions at chosen positions of (B, S) tokens, by layer; arguments as for `capture_keys`.

    Raises:
        CaptureError: as for `capture_keys`.
        ModelError: a layer is dense or out of range.
        NumericalError: a key or a gate is not finite.
    """
    calls = capture_keys(base, input_ids, attention_mask, positions, layers)
    found = {}
    for index, call in calls.items():
        layer = base.layer(index)
        assert call.keys is not None
        values = torch.zeros(*call.experts.shape, layer.d_model)  # (N, K, d_m)
        with align_module_device(layer.experts):
            for expert in call.experts.unique().tolist():
                if expert < layer.num_experts:
                    token, slot = (call.experts == expert).nonzero(as_tuple=True)
                    output = expert_output(layer.experts, expert, call.keys[token, slot])  # (n, d_m)
                    gated = output * call.gates[token, slot][:, None]
                    values[token.cpu(), slot.cpu()] = gated.float().cpu()
        found[index] = Contributions(call.experts.cpu(), values)
    return found
