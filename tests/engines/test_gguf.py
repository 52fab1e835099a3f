"""Merged checkpoints as GGUF, by the names that llama.cpp has for tensors, and in llama.cpp itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from moe_patch.base.model import Base
from tests.engines.merged import CHECKPOINTS, merged, opened, outside, texts, unmerged

TOKENS = 12
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
OF_A_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OF_AN_EXPERT = {"gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps"}


def stored(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint, in fp32."""
    for part in folder.glob("model*.safetensors"):
        for name, tensor in load_file(part).items():
            yield name, tensor.float()


def place(name: str) -> tuple[str, int | None]:
    """Where llama.cpp has a tensor of Qwen3-MoE: its name, and which row it is where experts lie together."""
    name = name.removesuffix(".weight")
    if name in WHOLE:
        return f"{WHOLE[name]}.weight", None
    layer, part = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name).groups()  # type: ignore[union-attr]
    if expert := re.fullmatch(r"mlp\.experts\.(\d+)\.(\w+)", part):
        return f"blk.{layer}.{OF_AN_EXPERT[expert[2]]}.weight", int(expert[1])
    return f"blk.{layer}.{OF_A_LAYER[part]}.weight", None


def greedy(base: Base, prompts: list[list[int]]) -> list[list[int]]:
    """The likeliest tokens behind each prompt, without the one that ends a text."""
    settings = {"max_new_tokens": TOKENS, "do_sample": False}
    whole = [base.model.generate(torch.tensor([ids]), **settings)[0].tolist() for ids in prompts]
    answers = [row[len(ids) :] for row, ids in zip(whole, prompts, strict=True)]
    return [[token for token in answer if token != base.tokenizer.eos_token_id] for answer in answers]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_tensor_and_token_arrives(name: str, tmp_path: Path) -> None:
    outside("gguf_file.py", merged(name), tmp_path / "model.gguf")
    outside("gguf_content.py", tmp_path / "model.gguf", tmp_path / "content")
    with safe_open(tmp_path / "content", "pt") as content:
        found = {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
        tokens = json.loads(content.metadata()["tokens"])
    wanted = {place(stored_as): tensor for stored_as, tensor in stored(merged(name))}
    assert {key for key, _ in wanted} == found.keys()
    for (key, row), tensor in wanted.items():
        assert torch.equal(found[key] if row is None else found[key][row], tensor), key
    tokenizer = opened(merged(name)).tokenizer
    assert tokens == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))


def test_llama_cpp_reads_the_same_ids_and_says_the_same(tmp_path: Path) -> None:
    """Not of atlas: llama.cpp has no Qwen3-MoE with layers that are dense."""
    folder, out = merged("sharded"), tmp_path / "said.json"
    base = opened(folder)
    ids = base.tokenizer(texts())["input_ids"]
    prompts = [row for row in ids[::70] if row]
    outside("gguf_file.py", folder, tmp_path / "model.gguf")
    given = {"texts": texts(), "prompts": prompts, "tokens": TOKENS}
    outside("llama_cpp.py", tmp_path / "model.gguf", out, given=given)
    said = json.loads(out.read_text("utf-8"))
    assert said["ids"] == ids
    assert said["answers"] == greedy(base, prompts)
    assert said["answers"] != greedy(opened(unmerged("sharded")), prompts)
