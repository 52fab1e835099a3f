"""Two workers that share every expert between them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import moe_patch
from moe_patch.patch import save
from tests.serving.engines import PROMPTS, TOKENS, base, folder, greedy
from tests.tiny import tiny_patch

# in a process of its own: this one's engines have settled that there is one worker
TWO_WORKERS = """
import json, sys
from vllm import LLM, SamplingParams

def main(out, model, path, digest, prompts, tokens):
    llm = LLM(
        model, dtype="float32", enforce_eager=True, block_size=32, max_model_len=128, tensor_parallel_size=2,
        kv_cache_memory_bytes=2**24, distributed_executor_backend="mp",
        worker_extension_cls="moe_patch_serving.worker.PatchWorker",
    )

    def said():
        llm.reset_prefix_cache()
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        settings = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        return [list(answer.outputs[0].token_ids) for answer in llm.generate(asked, settings, use_tqdm=False)]

    def told(method, *arguments):
        return llm.collective_rpc(f"moe_patch_{method}", args=arguments)

    steps = [(None, said()), (told("add", path, digest), said()), (told("remove", digest), said())]
    steps += [(told("remove", digest), [])]
    with open(out, "w") as file:  # workers print too
        json.dump(steps, file)

if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "two_workers.py"
    path.write_text(TWO_WORKERS)
    return path


def test_each_holds_its_half_of_a_patch(script: Path, tmp_path: Path) -> None:
    patch = tiny_patch(base("qwen3_moe"), scale=0.4)
    save(patch, tmp_path / "patch.safetensors")
    out = tmp_path / "steps.json"
    places = map(str, (out, folder("qwen3_moe"), tmp_path / "patch.safetensors"))
    subprocess.run(
        [sys.executable, script, json.dumps([*places, patch.hash, PROMPTS, TOKENS])],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    (_, bare), (added, patched), (removed, bare_again), (refused, _) = json.loads(out.read_text())
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
