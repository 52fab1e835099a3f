"""Tiny random models of real architectures, a tokenizer built in memory, and random patches, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from moe_patch.base.classes import text_class
from moe_patch.base.model import Base
from moe_patch.base.moe import MoELayer
from moe_patch.base.opening import wrap
from moe_patch.data.facts import Fact
from moe_patch.patch import Dense, LayerDelta, Patch
from moe_patch.patch.rows import Rows
from tests.architectures import configs
from tests.architectures.configs import BOS, EOS, PAD, UNK, VOCABULARY
from tests.architectures.registry import ModelType, tiny_config

_ROUTED_SINCE = {
    "aria_text": Version("5.18")
}  # older than the release that routes its experts through the interface

CONFIGS = {
    model_type: config
    for model_type, config in configs.CONFIGS.items()
    if model_type in CONFIG_MAPPING_NAMES
    and Version(transformers.__version__) >= _ROUTED_SINCE.get(model_type, Version("5"))
}
"""What each model type of this transformers release needs beside the common sizes."""


def auto_class(model_type: str) -> Any:
    """What opens models of this type."""
    return text_class(CONFIG_MAPPING[model_type]())


def tiny_model(model_type: str, seed: int = 0, **overrides: Any) -> nn.Module:
    """A random fp32 model of `model_type` in eval mode: hidden 32, three layers, 4 to 8 experts.

    What the architecture initialises to a constant, such as norms, biases and routing corrections, is made
    random too.
    """
    return random_model(tiny_config(ModelType(model_type), **overrides), seed)


def random_model(config: PreTrainedConfig, seed: int = 0) -> nn.Module:
    """`tiny_model` for a config."""
    torch.manual_seed(seed)
    model = text_class(config).from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() and bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for buffer in model.buffers():
            if buffer.is_floating_point() and not buffer.any():
                buffer.normal_(std=0.1)
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: one token per byte, exact offsets, any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, "<unk>": UNK}
    vocabulary |= {piece: len(vocabulary) + i for i, piece in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def tiny_base(model_type: str, seed: int = 0, **overrides: Any) -> Base:
    """`tiny_model` with the in-memory tokenizer, as a Base."""
    return wrap(tiny_model(model_type, seed, **overrides), tiny_tokenizer(), name=f"tiny-{model_type}")


def tiny_batch(rows: int = 3, length: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a mask, (rows, length) each; row 0 is padded on the left, row 1 on the right."""
    ids = torch.randint(4, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, : length // 3] = 0
    mask[1, -(length // 4) :] = 0
    return torch.where(mask.bool(), ids, PAD), mask


def tiny_delta(layer: MoELayer, facts: int = 4, seed: int = 0, scale: float = 0.3) -> LayerDelta:
    """A random delta: a fact reaches an expert or does not; the first fact reaches all, none the last."""
    generator = torch.Generator().manual_seed(seed)
    reached = torch.rand(layer.num_experts, facts, generator=generator) < 0.6  # (E, T)
    reached[:, 0] = True
    reached[-1] = False
    expert, fact = reached.nonzero(as_tuple=True)  # sorted by expert, then fact
    left = scale * torch.randn(facts, layer.d_model, generator=generator)
    value = scale * torch.randn(len(expert), layer.d_key, generator=generator)
    return LayerDelta.from_solution(left, Rows(value, expert, fact, facts), residual=None, ridge=1.0)


def tiny_patch(base: Base, layers: list[int] | None = None, seed: int = 0, scale: float = 0.3) -> Patch:
    """A patch of random deltas for some layers of `base`, all MoE layers unless named."""
    layers = list(base.layers) if layers is None else layers
    return Patch(
        kind="delta",
        method="random",
        hyperparameters={"seed": seed},
        base=base.fingerprint(layers),
        facts=tuple(Fact(f"fact-{i}", "{} lies in", f"Town {i}", f"Land {i}") for i in range(4)),
        results=(),
        layers={index: tiny_delta(base.layer(index), seed=seed + index, scale=scale) for index in layers},
    )


def tiny_whole_delta(layer: MoELayer, seed: int = 0, scale: float = 0.1) -> LayerDelta:
    """`tiny_delta` with dense matrices on top: of an expert that it changes, and of one that it does not."""
    generator = torch.Generator().manual_seed(seed + 1000)
    experts = torch.tensor([1, layer.num_experts - 1])
    value = scale * torch.randn(2, layer.d_model, layer.d_key, generator=generator)
    return replace(tiny_delta(layer, seed=seed), dense=Dense(value, experts))


def tiny_whole_patch(base: Base, layers: list[int] | None = None, seed: int = 0) -> Patch:
    """`tiny_patch` with `tiny_whole_delta`s."""
    patch = tiny_patch(base, layers, seed)
    whole = {index: tiny_whole_delta(base.layer(index), seed + index) for index in patch.layers}
    return replace(patch, layers=whole)


def dense_delta(delta: LayerDelta, layer: MoELayer) -> torch.Tensor:
    """The delta of every expert, (E, d_m, d_k), summed row by row."""
    dense = torch.zeros(layer.num_experts, layer.d_model, layer.d_key)
    for row, (expert, fact) in enumerate(
        zip(delta.rows.expert.tolist(), delta.rows.fact.tolist(), strict=True)
    ):
        dense[expert] += torch.outer(delta.left[fact], delta.rows.value[row])
    if delta.dense is not None:
        for expert, value in zip(delta.dense.expert.tolist(), delta.dense.value, strict=True):
            dense[expert] += value
    return dense
