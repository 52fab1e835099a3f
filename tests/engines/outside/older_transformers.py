"""What a user's older transformers does; it runs in the engines' environment, without this project."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3MoeConfig

SPECIAL = ["<pad>", "<bos>", "<eos>"]
VOCABULARY = 320


def save(folder: Path, texts: list[str]) -> None:
    """A random model in small shards, and a tokenizer that learned from `texts`, as this release has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, bos, eos = SPECIAL
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, bos_token=bos, eos_token=eos
    ).save_pretrained(folder)
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        rope_theta=1e6,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32).save_pretrained(
        folder, max_shard_size="100KB"
    )


def read(folder: Path, texts: list[str], out: Path) -> None:
    """The ids of `texts`; of every tenth that has any, the logits behind the last, (rows, V)."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    ids = tokenizer(texts)["input_ids"]
    with torch.inference_mode():
        logits = torch.stack([model(torch.tensor([row])).logits[0, -1] for row in ids[::10] if row])
    save_file({"logits": logits}, out, metadata={"ids": json.dumps(ids)})


if __name__ == "__main__":
    action, name, *rest = sys.argv[1:]
    asked = json.load(sys.stdin)
    save(Path(name), asked) if action == "save" else read(Path(name), asked, Path(*rest))
