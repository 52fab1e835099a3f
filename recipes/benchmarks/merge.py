"""Merging into a sharded checkpoint compared with copying its one touched shard, and kill -9 during merges.

    python -m recipes.benchmarks.merge --json

The checkpoint is synthetic: bf16, every expert stored by itself, eight shards of five layers, all edited
layers in one shard. `cold` is the time from the opened patch and checkpoint to the finished folder, with all
of the base hashed and checked, the touched shard hashed and everything on disk. `warm` is the same after an
earlier merge has hashed the same base. `open` is separate because most of it is the start of transformers,
once per process.
`cp` copies that shard, and `cp_sync` waits for the disk as well, as a merge does. Each figure is the best of
several turns, in which all are run one after the other. Memory is the peak of the merging process, libraries
included. The kills hit a small checkpoint at random moments. After each, no unfinished folder may look
finished, and now and then a killed run is continued and must give the bytes of an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from moe_patch.checkpoint import open_checkpoint, plan_merge
from moe_patch.checkpoint.staging import LAST
from moe_patch.data.facts import Fact
from moe_patch.patch import LayerDelta, Patch, load, save

from . import QWEN3_30B_A3B, Figures, LayerShape, best_time, print_figures

SHARDS, LAYERS_IN_ONE = 8, 5
EDITED = tuple(range(LAYERS_IN_ONE, 2 * LAYERS_IN_ONE))
SMALL = LayerShape(experts=8, top_k=2, d_model=64, d_key=48)


def shape_of(gib: float) -> LayerShape:
    """Layers as wide as Qwen3-30B-A3B's, with as many experts as make a checkpoint of `gib` GiB."""
    wide = QWEN3_30B_A3B
    per_expert = 3 * wide.d_model * wide.d_key * torch.bfloat16.itemsize
    experts = round(gib * 2**30 / (SHARDS * LAYERS_IN_ONE * per_expert))
    return replace(wide, experts=max(wide.top_k, experts))


def synthesize(folder: Path, shape: LayerShape) -> None:
    """Write a Qwen3-MoE checkpoint with layers of this shape."""
    config = Qwen3MoeConfig(  # type: ignore[call-arg]  # head_dim is read, but not declared
        vocab_size=1000,
        hidden_size=shape.d_model,
        moe_intermediate_size=shape.d_key,
        num_hidden_layers=SHARDS * LAYERS_IN_ONE,
        num_attention_heads=8,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        dtype="bfloat16",
    )
    folder.mkdir()
    config.save_pretrained(folder)
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        layers = range(shard * LAYERS_IN_ONE, (shard + 1) * LAYERS_IN_ONE)
        tensors = _layers(layers, shape) | _beside_experts(config, layers)
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _layers(layers: range, shape: LayerShape) -> dict[str, torch.Tensor]:
    """The experts of some layers: one block of random numbers, rotated by another amount for each."""
    block = torch.randn(shape.d_key, shape.d_model).mul(0.02).bfloat16()
    tensors = {}
    for layer in layers:
        for expert in range(shape.experts):
            prefix = f"model.layers.{layer}.mlp.experts.{expert}"
            turned = block.roll(layer * shape.experts + expert, 0)
            tensors[f"{prefix}.gate_proj.weight"] = turned
            tensors[f"{prefix}.up_proj.weight"] = turned.clone()
            tensors[f"{prefix}.down_proj.weight"] = turned.T.contiguous()
    return tensors


def _beside_experts(config: Qwen3MoeConfig, layers: range) -> dict[str, torch.Tensor]:
    """The other tensors of some layers; those of no layer are with the first ones."""
    with torch.device("meta"):
        wanted = Qwen3MoeForCausalLM(config).state_dict()
    prefixes = tuple(f"model.layers.{layer}." for layer in layers)
    return {
        name: torch.randn(tensor.shape).mul(0.02).bfloat16()
        for name, tensor in wanted.items()
        if ".experts." not in name
        and (name.startswith(prefixes) or (0 in layers and not name.startswith("model.layers.")))
    }


def synthesize_patch(folder: Path, shape: LayerShape, facts: int, path: Path) -> None:
    """Save a patch of random rows for the edited layers of the checkpoint in `folder`."""
    layers = {}
    for number, layer in enumerate(EDITED):
        rows, residual = shape.random_facts(facts, seed=number)
        layers[layer] = LayerDelta.from_solution(0.1 * residual, rows, residual=residual, ridge=1.0)
    patch = Patch(
        kind="delta",
        method="random",
        hyperparameters={},
        base=open_checkpoint(folder).fingerprint(EDITED),
        facts=tuple(Fact(f"fact-{n}", "{} lies in", f"Town {n}", f"Land {n}") for n in range(facts)),
        results=(),
        layers=layers,
    )
    save(patch, path)


def merge_once(folder: Path, patch_path: Path, out: Path) -> Figures:
    """Merge in this process, which does nothing else, and measure time and memory."""
    began = time.perf_counter()
    patch = load(patch_path)
    loaded = time.perf_counter()
    checkpoint = open_checkpoint(folder)
    opened = time.perf_counter()
    plan = plan_merge(checkpoint, [patch], out)
    plan.run()
    return {
        "merge_seconds": time.perf_counter() - opened,
        "load_seconds": loaded - began,
        "open_seconds": opened - loaded,
        "peak_bytes": _peak_bytes(),
        "disk_bytes": plan.disk_bytes,
        "experts": sum(len(changes) for changes in plan.changes.values()),
        "rewritten": len(plan.changes),
        "untouched_by": plan.linked,
    }


def _peak_bytes() -> int:
    """The most memory that this process has used; getrusage would count its parent's before the fork too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def compare_with_copy(folder: Path, patch_path: Path, scratch: Path, turns: int) -> Figures:
    """The best times of `cp` and of merges, in turns."""
    shard = folder / f"model-00002-of-{SHARDS:05}.safetensors"
    copy, out, cache = scratch / "copy.safetensors", scratch / "merged", scratch / "cache"
    alone = [sys.executable, "-m", __spec__.name, "--alone", folder, patch_path, out]
    environment = os.environ | {"MOE_PATCH_CACHE": str(cache)}
    copies, synced, starts = [], [], []
    merges: dict[str, list[Figures]] = {"cold": [], "warm": []}
    for _ in range(turns):
        plain, _ = best_time(partial(subprocess.run, ["cp", shard, copy], check=True))
        flush, _ = best_time(partial(subprocess.run, ["sync", copy], check=True))
        copy.unlink()
        copies.append(plain)
        synced.append(plain + flush)
        shutil.rmtree(cache, ignore_errors=True)
        for figures in merges.values():
            run = partial(subprocess.run, alone, check=True, stdout=subprocess.PIPE, env=environment)
            whole, done = best_time(run)
            figures.append(json.loads(done.stdout))
            starts.append(whole - float(figures[-1]["merge_seconds"]))
            shutil.rmtree(out)
    best = {
        state: min(figures, key=lambda found: found["merge_seconds"]) for state, figures in merges.items()
    }
    seconds = {state: float(figures.pop("merge_seconds")) for state, figures in best.items()}
    return {
        "shard_bytes": shard.stat().st_size,
        "cp_seconds": min(copies),
        "cp_sync_seconds": min(synced),
        **best["cold"],
        "start_seconds": min(starts),
        **{f"{state}_seconds": taken for state, taken in seconds.items()},
        **{f"{state}_to_cp": taken / min(copies) for state, taken in seconds.items()},
        **{f"{state}_to_cp_sync": taken / min(synced) for state, taken in seconds.items()},
    }


def kill_merges(folder: Path, patch_path: Path, scratch: Path, kills: int, seed: int) -> Figures:
    """Kill merges at random moments, and check what each leaves."""
    patch, chance = load(patch_path), random.Random(seed)
    whole, out = scratch / "whole", scratch / "out"
    seconds, _ = best_time(plan_merge(open_checkpoint(folder), [patch], whole).run)
    expected, counts = _contents(whole), dict.fromkeys(("killed", "resumed", "finished_first"), 0)
    while counts["killed"] < kills:
        child = os.fork()
        if not child:
            plan_merge(open_checkpoint(folder), [patch], out).run()
            os._exit(0)
        time.sleep(chance.uniform(0, 1.2 * seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        counts["killed" if os.WIFSIGNALED(status) else "finished_first"] += 1
        for staging in scratch.glob(".out.*.making"):
            if (staging / LAST).exists() and _contents(staging) != expected:
                raise AssertionError(f"{staging} looks finished, but is not")
        if out.exists() or chance.random() < 1 / 3:
            if not out.exists():
                counts["resumed"] += 1
                plan_merge(open_checkpoint(folder), [patch], out).run()
            if _contents(out) != expected:
                raise AssertionError(f"{out} differs from the result of an uninterrupted merge")
            shutil.rmtree(out)
    return {**counts, "half_finished": 0}


def _contents(folder: Path) -> dict[str, bytes]:
    """Every file, except those that were being written when the process died, which have temporary names."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".tmp")}


@click.command(help=__doc__)
@click.option("--gib", default=8.0, show_default=True, help="Size of the checkpoint.")
@click.option("--facts", default=50, show_default=True)
@click.option("--turns", default=3, show_default=True, help="Runs of cp and of the merge.")
@click.option("--kills", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to make it all.  [default: temporary]")
@click.option("--json", "as_json", is_flag=True)
@click.option("--alone", type=click.Path(path_type=Path), nargs=3, hidden=True)
def main(
    gib: float,
    facts: int,
    turns: int,
    kills: int,
    seed: int,
    folder: Path | None,
    as_json: bool,
    alone: tuple[Path, Path, Path] | None,
) -> None:
    """Measure and report."""
    if alone:
        click.echo(json.dumps(merge_once(*alone)))
        return
    figures: Figures = {"gib": gib, "facts": facts}
    for name, shape in (("merge", shape_of(gib)), ("kill", SMALL)):
        with tempfile.TemporaryDirectory(dir=folder) as made:
            scratch = Path(made)
            synthesize(scratch / "base", shape)
            synthesize_patch(scratch / "base", shape, facts, scratch / "patch.safetensors")
            arguments = (scratch / "base", scratch / "patch.safetensors", scratch)
            figures |= (
                compare_with_copy(*arguments, turns)
                if name == "merge"
                else kill_merges(*arguments, kills, seed)
            )
    print_figures("merging into a checkpoint", figures, as_json)


if __name__ == "__main__":
    main()
