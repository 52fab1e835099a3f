"""Tiny checkpoint folders, and comparing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from moe_patch.base.model import Base
from moe_patch.base.opening import wrap
from tests.tiny import auto_class, tiny_base, tiny_tokenizer


def saved(folder: Path, model_type: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> Path:
    """A checkpoint in small shards, with the files that are usually beside the weights."""
    base = tiny_base(model_type, **overrides)
    base.model.to(dtype).save_pretrained(folder, max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "README.md").write_text("# A model card\n")
    return folder


def opened(folder: Path, model_type: str) -> Base:
    model = auto_class(model_type).from_pretrained(folder, dtype="auto")
    return wrap(model.eval(), AutoTokenizer.from_pretrained(folder))


def state(base: Base) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in base.model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    def bits(tensor: Tensor) -> Tensor:
        return tensor.reshape(-1).view(torch.uint8)

    return first.keys() == second.keys() and all(
        torch.equal(bits(first[name]), bits(second[name])) for name in first
    )


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones included, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
