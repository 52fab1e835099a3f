"""A bypass beside experts that two workers share: each runs all of it, and decides as the other does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moe_patch.patch import save
from tests.serving.bypasses import bypass_patch, expected
from tests.serving.engines import PROMPTS, TOKENS, base, folder, greedy

# in a process of its own: the tests' engines have settled that there is one worker
TWO_WORKERS = """
import json, sys
from vllm import LLM, SamplingParams

def main(out, model, patch, prompts, tokens):
    llm = LLM(
        model, dtype="float32", enforce_eager=True, block_size=32, max_model_len=128, tensor_parallel_size=2,
        kv_cache_memory_bytes=2**24, distributed_executor_backend="mp", enable_prefix_caching=False,
        max_num_batched_tokens=16, max_num_seqs=4, load_format="moe_patch",
        model_loader_extra_config={"patch": patch},
        worker_extension_cls="moe_patch_serving.worker.PatchWorker",
    )
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    settings = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
    said = [list(answer.outputs[0].token_ids) for answer in llm.generate(asked, settings, use_tqdm=False)]
    with open(out, "w") as file:  # workers print too
        json.dump([said, llm.collective_rpc("moe_patch_bypasses")], file)

if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_workers_say_what_transformers_says(tmp_path: Path) -> None:
    patch = bypass_patch("qwen3_moe", tokens="last")
    save(patch, tmp_path / "bypass.safetensors")
    (tmp_path / "two_workers.py").write_text(TWO_WORKERS)
    out = tmp_path / "out.json"
    places = map(str, (out, folder("qwen3_moe"), tmp_path / "bypass.safetensors"))
    subprocess.run(
        [sys.executable, tmp_path / "two_workers.py", json.dumps([*places, PROMPTS, TOKENS])],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=600,
    )
    said, workers = json.loads(out.read_text())
    assert said == expected("qwen3_moe", patch) != greedy(base("qwen3_moe"))
    assert [worker["bypasses"][0]["patch"] for worker in workers] == [patch.hash] * 2
