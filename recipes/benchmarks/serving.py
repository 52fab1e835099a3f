"""The demo model in vLLM: tokens a second without a patch and with one, for each way to serve it.

    make bench-serving

All engines run in one process and take turns at the same prompts, so that other work on the machine affects
all of them; figures are medians of the turns. On a busy machine, only tokens per second of processor time are
meaningful. `base` has no patch, `merged` is a checkpoint with the patch, `loaded` has the patch by the load
format, and `live` got it by the worker extension. `bypass` has a bypass of MEMoE's default sizes instead,
through which every token goes. Start-up is measured in separate processes, until the engine is ready, with
and without the load format in turns. Memory is the growth of the process when the patch is added, and the
part of it that stays when it is removed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import torch

from moe_patch.base.opening import open_base
from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.data.fact_file import read_facts
from moe_patch.methods import get_method
from moe_patch.methods.recipes import recipe_for
from moe_patch.patch import load, save

from . import Figures, print_figures
from ._bypass import busy_bypass

if TYPE_CHECKING:
    from vllm import LLM

FACTS = Path(__file__).parents[1] / "facts" / "50.jsonl"
ENGINE = {
    "dtype": "float32",
    "enforce_eager": True,
    "distributed_executor_backend": "uni",
    "block_size": 32,
    "max_model_len": 256,
    "kv_cache_memory_bytes": 2**27,
    "enable_prefix_caching": False,  # otherwise prompts would be read from the cache after the first turn
    "worker_extension_cls": "moe_patch_serving.worker.PatchWorker",
}
STREAMS, PROMPT, TOKENS = 16, 32, 64


@dataclass(frozen=True, slots=True)
class ServingBench:
    """The base and one patch."""

    model: Path
    patch: Path
    scratch: Path

    @property
    def loading(self) -> dict[str, Any]:
        """The options with which an engine loads the patch."""
        extra = {"patch": str(self.patch)}
        return {"load_format": "moe_patch", "model_loader_extra_config": extra}

    def start(self, model: Path | None = None, **options: Any) -> LLM:
        from vllm import LLM  # noqa: PLC0415 the environment is set by now

        return LLM(str(model or self.model), **(ENGINE | options))


def merged(bench: ServingBench) -> LLM:
    """An engine on a checkpoint with the patch."""
    out = bench.scratch / "merged"
    plan_merge(open_checkpoint(bench.model), [load(bench.patch)], out).run()
    return bench.start(out)


def live(bench: ServingBench) -> LLM:
    """An engine to which the patch is added while it runs."""
    engine = bench.start()
    call_worker(engine, "add", str(bench.patch), load(bench.patch).hash)
    return engine


def bypassed(bench: ServingBench) -> LLM:
    """An engine with a bypass beside layer 1; every token goes through one of its experts."""
    path = bench.scratch / "bypass.safetensors"
    save(busy_bypass(open_base(), layer=1), path)
    loading = replace(bench, patch=path).loading
    return bench.start(**loading, enable_chunked_prefill=False)


WAYS: dict[str, Callable[[ServingBench], LLM]] = {
    "base": lambda bench: bench.start(),
    "merged": merged,
    "loaded": lambda bench: bench.start(**bench.loading),
    "live": live,
    "bypass": bypassed,
}


def call_worker(engine: LLM, method: str, *arguments: Any) -> dict[str, Any]:
    """The worker's answer; ClickException if it is an error."""
    answer: dict[str, Any]
    (answer,) = engine.collective_rpc(f"moe_patch_{method}", args=arguments)
    if "error" in answer:
        raise click.ClickException(answer["error"]["message"])
    return answer


def speed(engine: LLM) -> dict[str, float]:
    """Generated tokens of all streams per second, by the clock and by processor time."""
    from vllm import SamplingParams  # noqa: PLC0415 as above

    prompts = [
        {"prompt_token_ids": [10 + stream + place for place in range(PROMPT)]} for stream in range(STREAMS)
    ]
    settings = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    began, worked = time.perf_counter(), time.process_time()
    engine.generate(prompts, settings, use_tqdm=False)
    seconds, busy = time.perf_counter() - began, time.process_time() - worked
    return {"tokens_per_second": STREAMS * TOKENS / seconds, "tokens_per_cpu_second": STREAMS * TOKENS / busy}


def throughput(bench: ServingBench, turns: int) -> Figures:
    """Medians of the speed of each way, and of its ratio to the base's speed in the same turn."""
    engines = {name: start(bench) for name, start in WAYS.items()}
    for engine in engines.values():
        speed(engine)  # the first is slower
    figures, rates = changes(engines["live"], bench, turns), []
    order = deque(engines)
    for turn in range(turns):
        rates.append({name: speed(engines[name]) for name in order})
        order.rotate()  # the engine before leaves its data in the processor's caches
        click.echo(f"turn {turn + 1} of {turns}: {json.dumps(rates[-1])}", err=True)
    for unit in ("tokens_per_second", "tokens_per_cpu_second"):
        for name in WAYS:
            figures[f"{name}_{unit}"] = median(turn[name][unit] for turn in rates)
            to_base = [turn[name][unit] / turn["base"][unit] for turn in rates]
            figures[f"{name}_{unit}_to_base"] = median(to_base)
    return figures


def changes(engine: LLM, bench: ServingBench, turns: int) -> Figures:
    """Seconds to add the patch to a running engine and to remove it, and the memory that it takes."""
    digest = load(bench.patch).hash
    seconds: dict[str, list[float]] = {"add": [], "remove": []}
    call_worker(engine, "remove", digest)
    without, kept = resident(), 0
    for _ in range(turns):
        for method, arguments in (("add", (str(bench.patch), digest)), ("remove", (digest,))):
            began = time.perf_counter()
            state = call_worker(engine, method, *arguments)
            seconds[method].append(time.perf_counter() - began)
            kept = max(kept, state["bytes_kept"])
    after = resident()
    call_worker(engine, "add", str(bench.patch), digest)
    return {
        "add_seconds": median(seconds["add"]),
        "remove_seconds": median(seconds["remove"]),
        "bytes_kept": kept,
        "resident_growth_on": resident() - after,
        "resident_growth_after_turns": after - without,
    }


def start_up(bench: ServingBench, turns: int) -> Figures:
    """Median seconds until an engine is ready, and the memory of its process."""
    ways = {"plain": {}, "load_format": bench.loading}
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, options in ways.items():
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                "--alone",
                json.dumps([str(bench.model), options]),
            ]
            began = time.perf_counter()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            whole = time.perf_counter() - began
            found[name].append(json.loads(done.stdout.splitlines()[-1]) | {"process_seconds": whole})
    return {
        f"{name}_{figure}": median(float(one[figure]) for one in runs)
        for name, runs in found.items()
        for figure in runs[0]
    }


def start_alone(model: str, options: dict[str, Any]) -> Figures:
    """One start, in this process."""
    began = time.perf_counter()
    ServingBench(Path(model), Path(), Path()).start(**options)
    return {"engine_seconds": time.perf_counter() - began, "resident_bytes": resident()}


def resident() -> int:
    """Bytes of memory that this process has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def build_patch(path: Path) -> None:
    """A patch of 50 facts, with the demo model's recipe."""
    base = open_base()
    recipe, method = recipe_for(base), get_method("moeedit")
    options = method.options(**(recipe.method_options("moeedit") if recipe else {}))
    save(method.build(base, read_facts(FACTS).facts, options), path)


@click.command(help=__doc__)
@click.option("--patch", type=click.Path(path_type=Path), help="Of the demo model.  [default: one is built]")
@click.option("--turns", default=7, show_default=True, help="At the prompts, for each way.")
@click.option("--starts", default=3, show_default=True, help="Starts with the load format, and without.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--alone", hidden=True)
def main(patch: Path | None, turns: int, starts: int, as_json: bool, alone: str | None) -> None:
    """Measure and report."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    if alone:
        click.echo(json.dumps(start_alone(*json.loads(alone))))
        return
    with tempfile.TemporaryDirectory() as made:
        bench = ServingBench(open_checkpoint().folder, patch or Path(made) / "patch.safetensors", Path(made))
        if patch is None:
            build_patch(bench.patch)
        figures: Figures = {"streams": STREAMS, "tokens": TOKENS, "threads": torch.get_num_threads()}
        if starts:
            figures |= start_up(bench, starts)
        if turns:
            figures |= throughput(bench, turns)
    print_figures("serving the demo model with vLLM", figures, as_json)


if __name__ == "__main__":
    main()
