"""Which experts, and which of their columns, a worker holds: by brute force against the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.expert_map_manager import determine_expert_map

from moe_patch.apply.weights.summed import patched_weight
from moe_patch.errors import ModelError
from moe_patch.patch import LayerDelta
from moe_patch_serving.worker.experts import ServedExperts, ServedLayer, local_slot, rank_columns
from moe_patch_serving.worker.layout import AsIs
from tests.serving.engines import base, served
from tests.tiny import tiny_delta


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 12])
def test_every_column_is_on_one_worker(size: int) -> None:
    shares = [list(range(12))[rank_columns(12, rank, size)] for rank in range(size)]
    assert [column for share in shares for column in share] == list(range(12))
    assert len({len(share) for share in shares}) == 1


def test_columns_that_cannot_be_dealt_out_are_refused() -> None:
    with pytest.raises(ModelError, match=r"12 columns.*5 workers"):
        rank_columns(12, 0, 5)


@pytest.mark.parametrize("strategy", ["linear", "round_robin"])
@pytest.mark.parametrize(("experts", "size"), [(8, 1), (8, 2), (8, 4), (10, 4), (7, 3)])
def test_every_expert_is_on_one_worker(experts: int, size: int, strategy: str) -> None:
    places = []
    for rank in range(size):
        count, expert_map, _ = determine_expert_map(size, rank, experts, strategy)  # type: ignore[arg-type]
        slots = {expert: local_slot(expert, expert_map) for expert in range(experts)}
        here = {expert: slot for expert, slot in slots.items() if slot is not None}
        assert sorted(here.values()) == list(range(count))
        places += list(here)
    assert sorted(places) == list(range(experts))


def whole(delta: LayerDelta, weight: Tensor) -> Tensor:
    """All experts (E, d_m, d_k) with the delta, on one worker and plain."""
    return torch.stack(
        [patched_weight(one, expert, [delta]) for expert, one in enumerate(weight)]
    )  # (E, d_m, d_k)


def share(weight: Tensor, rank: int, size: int, padding: int, expert_map: Tensor | None) -> ServedLayer:
    """What one worker holds of `weight` (E, d_m, d_k), with zeros around it."""
    experts, d_model, d_key = weight.shape
    cut = rank_columns(d_key, rank, size)
    here = [expert for expert in range(experts) if local_slot(expert, expert_map) is not None]
    stored = torch.zeros(len(here), d_model + padding, cut.stop - cut.start + padding)
    for expert in here:
        stored[local_slot(expert, expert_map), :d_model, : cut.stop - cut.start] = weight[expert][:, cut]
    return ServedLayer(1, d_model, d_key, cut, expert_map, nn.Parameter(stored), AsIs())


@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize(("tensor_parallel", "expert_parallel"), [(1, 1), (2, 1), (4, 1), (1, 2), (1, 3)])
def test_shares_of_an_edit_are_the_edit(tensor_parallel: int, expert_parallel: int, padding: int) -> None:
    known = base("qwen3_moe").layer(1)
    delta = tiny_delta(known, seed=3)
    weight = torch.randn(known.shape, generator=torch.Generator().manual_seed(0))  # (E, d_m, d_k)
    edited = torch.full_like(weight, torch.nan)
    for expert_rank in range(expert_parallel):
        _, expert_map, _ = determine_expert_map(expert_parallel, expert_rank, known.num_experts)
        for rank in range(tensor_parallel):
            layer = share(weight, rank, tensor_parallel, padding, expert_map)
            for expert in range(known.num_experts):
                if layer.slot(expert) is None:
                    continue
                new = layer.edited(layer.stored(expert), expert, [delta])
                width = layer.columns.stop - layer.columns.start
                edited[expert][:, layer.columns] = new[: known.d_model, :width]
                assert not new[known.d_model :].any()
                assert not new[:, width:].any()
    # up to the rounding of a sum: products of fewer columns may be added up in another order
    torch.testing.assert_close(edited, whole(delta, weight), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model", ["qwen3_moe", "mixtral", "gpt_oss", "atlas"])
def test_served_weights_are_the_base_s(model: str) -> None:
    experts = ServedExperts(served(model).model)
    for known in base(model).layers.values():
        layer = experts.layer(known)
        assert layer is not None
        for expert in range(known.num_experts):
            plain = layer.layout.unpack(layer.stored(expert))
            assert torch.equal(plain[: known.d_model, : known.d_key], known.down(expert))


def test_layers_of_another_pipeline_stage_are_not_here() -> None:
    experts = ServedExperts(nn.ModuleList())
    assert experts.layer(base("qwen3_moe").layer(1)) is None


def test_a_model_of_other_sizes_is_refused() -> None:
    with pytest.raises(ModelError, match=r"sizes.*the base has"):
        ServedExperts(served("qwen3_moe").model).layer(base("mixtral").layer(1))
