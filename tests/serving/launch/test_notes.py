"""What is said before vLLM takes over."""

from __future__ import annotations

from pathlib import Path

from moe_patch_serving.launch.notes import starting_notes

TOKEN = "0123456789abcdef"


def said(*command: str, **environment: str) -> str:
    return "\n".join(starting_notes(["vllm", "serve", *command], environment))


def test_who_may_change_it_and_with_what(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"alice {TOKEN}\nbob {TOKEN[::-1]}\n")
    notes = said(MOE_PATCH_TOKEN_FILE=str(file), MOE_PATCH_ALLOW=f"{tmp_path}\nhf://org")
    assert "the tokens of: alice, bob." in notes
    assert f"Patches may come from: {tmp_path}, hf://org." in notes
    assert TOKEN not in notes
    assert "nowhere: see --allow" in said(MOE_PATCH_TOKEN=TOKEN)
    assert said().startswith("Live changes are off.")


def test_the_memory_of_an_engine_on_the_cpu() -> None:
    assert "The engine takes 25% of this machine's memory" in said("--gpu-memory-utilization", "0.25")
    assert "takes" not in said().split("vLLM starts")[0]


def test_why_the_start_is_slow(tmp_path: Path) -> None:
    first = said(VLLM_CACHE_ROOT=str(tmp_path))
    assert "The first start takes minutes: it compiles" in first
    (tmp_path / "torch_compile_cache" / "model").mkdir(parents=True)
    assert "compiled before" in said(VLLM_CACHE_ROOT=str(tmp_path))
    assert "up to a minute" in said("--enforce-eager", VLLM_CACHE_ROOT=str(tmp_path))
