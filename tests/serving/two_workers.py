"""An engine whose two workers share every expert. It needs its own process: this one uses one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

Call = Sequence[str]
"""A method of the workers, without `moe_patch_`, and its arguments."""


def two_workers(
    model: Path, prompts: list[list[int]], length: int, calls: Sequence[Call], **options: Any
) -> list[tuple[list[Any], list[list[int]]]]:
    """The answers of both workers to each call, and of the engine to the prompts, by greedy decoding.

    Args:
        options: the engine's, beyond those that `_main` gives it.
    """
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "answers.json"  # workers print too
        given = [str(out), str(model), prompts, length, calls, options]
        subprocess.run(
            [sys.executable, __file__, json.dumps(given)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            timeout=600,
        )
        return [(answers, said) for answers, said in json.loads(out.read_text())]


def _main(
    out: str, model: str, prompts: list[list[int]], length: int, calls: list[Call], options: dict[str, Any]
) -> None:
    from vllm import LLM, SamplingParams

    llm = LLM(
        model,
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=128,
        kv_cache_memory_bytes=2**24,
        tensor_parallel_size=2,
        distributed_executor_backend="mp",
        worker_extension_cls="moe_patch_serving.worker.PatchWorker",
        **options,
    )
    asked: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
    settings = SamplingParams(temperature=0, max_tokens=length, ignore_eos=True)
    told = []
    for method, *arguments in calls:
        answers = llm.collective_rpc(f"moe_patch_{method}", args=tuple(arguments))
        llm.reset_prefix_cache()
        said = [list(answer.outputs[0].token_ids) for answer in llm.generate(asked, settings, use_tqdm=False)]
        told.append((answers, said))
    Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
