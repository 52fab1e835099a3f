"""What kernels do to the order of weights, learned from the kernels themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm._custom_ops import cpu_prepack_moe_weight
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

from moe_patch.errors import ModelError
from moe_patch_serving.worker.layout import AsIs, layout_of, learn_order
from tests.serving.engines import served


@pytest.fixture
def experts() -> Any:
    return next(module for module in served("qwen3_moe").model.modules() if isinstance(module, RoutedExperts))


@pytest.mark.parametrize("isa", ["vec", "amx"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(32, 32), (64, 32), (96, 160), (256, 320)])
def test_packing_is_what_the_kernel_does_to_every_expert(
    isa: str, dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    if isa == "amx" and (dtype == torch.float32 or not torch.cpu._is_amx_tile_supported()):
        pytest.skip("this machine's kernels for this dtype are others")
    layout = learn_order(lambda weight: cpu_prepack_moe_weight(weight, isa), *shape, dtype)
    plain = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    packed = cpu_prepack_moe_weight(plain, isa)
    for expert in range(3):
        assert torch.equal(layout.pack(plain[expert]), packed[expert])
        assert torch.equal(layout.unpack(packed[expert]), plain[expert])


@pytest.mark.parametrize("change", [lambda weight: 2 * weight, torch.zeros_like])
def test_more_than_a_reordering_is_refused(change: Any) -> None:
    with pytest.raises(ModelError, match="reorder"):
        learn_order(change, 32, 32, torch.bfloat16)


@pytest.mark.parametrize("backend", UnquantizedMoeBackend)
def test_kernels_are_known_or_refused(
    backend: UnquantizedMoeBackend, experts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experts.quant_method, "unquantized_backend", backend)
    if backend.name in {"TRITON", "BATCHED_TRITON", "FLASHINFER_CUTLASS"}:
        assert isinstance(layout_of(experts), AsIs)
    elif backend.name != "CPU":
        with pytest.raises(ModelError, match=rf"{backend.name}.*--moe-backend triton"):
            layout_of(experts)


def test_experts_that_are_kept_by_another_method_are_refused(
    experts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(experts.quant_method, "unquantized_backend")
    with pytest.raises(ModelError, match=r"quantised.*load-format.*LoRA"):
        layout_of(experts)
