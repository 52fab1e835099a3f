"""Tiny checkpoints whose experts are stored as MXFP4 or FP8, as their makers store them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoint.folders import saved

MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def to_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise (..., n) to blocks (..., n / 32, 16) and scales (..., n / 32), both uint8."""
    groups = weight.float().unflatten(-1, (-1, 32))
    exponent = (groups.abs().amax(-1) / 4).clamp_min(2.0**-120).log2().floor()  # the largest in [4, 8)
    scaled = groups / exponent.exp2()[..., None]
    code = (scaled.abs()[..., None] - MAGNITUDES).abs().argmin(-1) + 8 * scaled.signbit().long()
    return (code[..., 0::2] | code[..., 1::2] << 4).to(torch.uint8), (exponent + 127).to(torch.uint8)


def to_fp8(weight: Tensor, block: int = 16) -> tuple[Tensor, Tensor]:
    """Quantise (d_m, d_k) to e4m3 of the same shape and an fp32 scale for each block."""
    rows, columns = (-(-side // block) for side in weight.shape)
    scale, codes = torch.zeros(rows, columns), torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
    for row in range(rows):
        for column in range(columns):
            at = (slice(block * row, block * (row + 1)), slice(block * column, block * (column + 1)))
            scale[row, column] = weight[at].abs().amax().float() / 448
            codes[at] = (weight[at].float() / scale[row, column]).to(torch.float8_e4m3fn)
    return codes, scale


def mxfp4_folder(folder: Path, **overrides: int) -> Path:
    """A tiny GPT-OSS in bf16 with MXFP4 experts."""

    def quantise(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return {name: tensor}
        blocks, scales = to_mxfp4(tensor.transpose(1, 2))
        return {f"{name}_blocks": blocks, f"{name}_scales": scales}

    return _rewritten(
        saved(folder, "gpt_oss", torch.bfloat16, **overrides), quantise, {"quant_method": "mxfp4"}
    )


def fp8_folder(folder: Path, **overrides: int) -> Path:
    """A tiny Qwen3-MoE in bf16 with FP8 experts in blocks."""

    def quantise(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if ".experts." not in name:
            return {name: tensor}
        codes, scale = to_fp8(tensor)
        return {name: codes, f"{name}_scale_inv": scale}

    settings = {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}
    return _rewritten(saved(folder, "qwen3_moe", torch.bfloat16, **overrides), quantise, settings)


def _rewritten(folder: Path, quantise: object, settings: dict[str, object]) -> Path:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in sorted(set(index["weight_map"].values())):
        tensors: dict[str, Tensor] = {}
        for name, tensor in load_file(folder / file).items():
            tensors |= quantise(name, tensor)  # type: ignore[operator]
            del index["weight_map"][name]
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder
