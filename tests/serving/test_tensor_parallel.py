"""Two workers that share every expert between them."""

from __future__ import annotations

from pathlib import Path

import pytest

import moe_patch
from moe_patch.patch import save
from tests.serving.bypasses import bypass_patch, expected
from tests.serving.engines import PROMPTS, TOKENS, base, folder, greedy
from tests.serving.two_workers import two_workers
from tests.tiny import tiny_patch


def test_each_holds_its_half_of_a_patch(tmp_path: Path) -> None:
    patch, path = tiny_patch(base("qwen3_moe"), scale=0.4), tmp_path / "patch.safetensors"
    save(patch, path)
    calls = [["state"], ["add", str(path), patch.hash], ["remove", patch.hash], ["remove", patch.hash]]
    (_, bare), (added, patched), (removed, bare_again), (refused, _) = two_workers(
        folder("qwen3_moe"), PROMPTS, TOKENS, calls
    )
    assert bare == bare_again == greedy(base("qwen3_moe")) != patched
    with moe_patch.apply(base("qwen3_moe"), patch):
        assert patched == greedy(base("qwen3_moe"))
    touched = sum(len(delta.experts()) for delta in patch.layers.values())
    padded = base("qwen3_moe").layer(1).down(0).nbytes  # the kernel pads 16 columns to 32
    assert [state["bytes_kept"] for state in added] == [touched * padded] * 2
    assert [state["patches"] for state in added] == [[patch.hash]] * 2
    assert added[0]["weights"] != added[1]["weights"]
    assert [state["patches"] for state in removed] == [[], []]
    assert [state["error"]["type"] for state in refused] == ["StackError"] * 2


@pytest.mark.slow
def test_each_runs_all_of_a_bypass_and_decides_as_the_other_does(tmp_path: Path) -> None:
    patch, path = bypass_patch("qwen3_moe", tokens="last"), tmp_path / "bypass.safetensors"
    save(patch, path)
    ((workers, said),) = two_workers(
        folder("qwen3_moe"),
        PROMPTS,
        TOKENS,
        [["bypasses"]],
        load_format="moe_patch",
        model_loader_extra_config={"patch": str(path)},
        enable_prefix_caching=False,
        max_num_batched_tokens=16,
        max_num_seqs=4,
    )
    assert said == expected("qwen3_moe", patch) != greedy(base("qwen3_moe"))
    assert [worker["bypasses"][0]["patch"] for worker in workers] == [patch.hash] * 2
