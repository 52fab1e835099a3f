"""Convert a Qwen3-MoE checkpoint to GGUF; it runs in the engines' environment, without this project.

It does what llama.cpp's own script does, which refuses tokenizers that it has not been told of.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(.*)")


def stacked(folder: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Every tensor of the folder in fp32, the experts of a layer as one."""
    experts: dict[str, dict[int, np.ndarray[Any, Any]]] = defaultdict(dict)
    for part in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(part).items():
            if expert := EXPERT.fullmatch(name):
                experts[f"{expert[1]}.{expert[3]}"][int(expert[2])] = tensor.float().numpy()
            else:
                yield name, tensor.float().numpy()
    for name, of_layer in experts.items():
        yield name, np.stack([of_layer[index] for index in range(len(of_layer))])


def add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """What llama.cpp has to know of the model's form."""
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_vocabulary(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """A byte-level BPE with GPT-2's pattern."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    kinds = [
        gguf.TokenType.CONTROL if place in special else gguf.TokenType.NORMAL
        for place in range(len(vocabulary))
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(vocabulary, key=vocabulary.__getitem__))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(tokenizer["post_processor"] is not None)


def convert(folder: Path, out: Path) -> None:
    """Write `folder` as one GGUF file, in fp32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.QWEN3MOE])
    add_sizes(writer, config)
    add_vocabulary(writer, tokenizer, config)
    # layers without experts are called what they are in the model that has none
    known = [
        gguf.get_tensor_name_map(form, config["num_hidden_layers"])
        for form in (gguf.MODEL_ARCH.QWEN3MOE, gguf.MODEL_ARCH.QWEN3)
    ]
    for name, tensor in stacked(folder):
        found = (names.get_name(name, try_suffixes=(".weight",)) for names in known)
        writer.add_tensor(next(filter(None, found)), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    convert(source, target)
