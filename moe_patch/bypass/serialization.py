"""A bypass as part of a patch. Patches come from strangers, so tensors are checked against the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import JsonValue, ValidationError
from torch import Tensor

from moe_patch.bypass.config import BypassConfig
from moe_patch.bypass.module import Bypass
from moe_patch.errors import MalformedMetadata, MalformedTensor, NotFinite, PatchError
from moe_patch.io import strict_json
from moe_patch.patch.patch import Patch

KEY = "bypass"  # the name of the config among a patch's hyper-parameters


@dataclass(frozen=True, slots=True, eq=False)
class Routed:
    """What the build decided for each of the T facts of the patch."""

    expert: Tensor  # (T,) int32, the expert of each fact
    gece: Tensor  # (T,) fp32, how rare the knowledge is; see moe_patch.methods.memoe.frequency


def write_bypass(bypass: Bypass, routed: Routed) -> tuple[dict[str, JsonValue], dict[str, Tensor]]:
    """A bypass as an entry of a patch's hyper-parameters, and as `Patch.bypass` tensors. Both are copies."""
    layer = bypass.config.layer
    tensors = {f"{layer}.{name}": tensor.detach().clone() for name, tensor in bypass.state_dict().items()}
    tensors |= {f"{layer}.facts.expert": routed.expert.int(), f"{layer}.facts.gece": routed.gece.float()}
    return {KEY: bypass.config.to_json()}, tensors


def read_bypass(patch: Patch) -> Bypass:
    """The bypass of a patch, in fp32 on the CPU and ready to run.

    The patch's tensors are shared and not copied.

    Raises:
        PatchError: the patch is of another kind.
        MalformedMetadata: the hyper-parameters have no valid config, or its layer is not that of the base.
        MalformedTensor: a tensor is missing, unexpected, or of another dtype or shape than the config says.
        NotFinite: a tensor contains NaN or an infinity.
    """
    config = read_config(patch)
    with torch.device("meta"):  # sizes only, since the config may ask for more memory than there is
        bypass = Bypass(config)
    check_tensors(patch.bypass, _expected(bypass, len(patch.facts)))
    state = {name: patch.bypass[f"{config.layer}.{name}"] for name in bypass.state_dict()}
    bypass.load_state_dict(state, assign=True)
    return bypass.requires_grad_(False).eval()


def read_routed(patch: Patch) -> Routed:
    """The build's decisions for each fact of the patch.

    Raises:
        PatchError: as for `read_bypass`, and for an expert that does not exist. The subclass says which.
    """
    config = read_config(patch)
    with torch.device("meta"):
        bypass = Bypass(config)
    check_tensors(patch.bypass, _expected(bypass, len(patch.facts)))
    routed = Routed(patch.bypass[f"{config.layer}.facts.expert"], patch.bypass[f"{config.layer}.facts.gece"])
    if bool(((routed.expert < 0) | (routed.expert >= config.experts)).any()):
        raise MalformedTensor(f"bypass.{config.layer}.facts.expert: expected 0 to {config.experts - 1}")
    return routed


def read_config(patch: Patch) -> BypassConfig:
    """The config of a patch of kind bypass.

    Raises:
        PatchError: the patch is of another kind.
        MalformedMetadata: the hyper-parameters have no valid config, or its layer is not that of the base.
    """
    if patch.kind != "bypass":
        raise PatchError(f"expected a patch of kind bypass, found one of kind {patch.kind}")
    try:
        config = BypassConfig.model_validate(patch.hyperparameters.get(KEY))
    except ValidationError as error:
        raise MalformedMetadata(f"hyperparameters.{KEY}: {strict_json.first_complaint(error)}") from error
    check_layer(patch, config.layer, KEY)
    return config


def check_layer(patch: Patch, layer: int, key: str) -> None:
    """Check that a layer, named by the config under `key`, is the one of the patch's base.

    Raises:
        MalformedMetadata: it is not.
    """
    if patch.base.experts.keys() != {layer}:
        found = ", ".join(map(str, sorted(patch.base.experts))) or "none"
        raise MalformedMetadata(f"hyperparameters.{key}.layer: is {layer}, but the base's layers are {found}")


def _expected(bypass: Bypass, facts: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Dtype and shape of every tensor, by its name in `Patch.bypass`."""
    layer = bypass.config.layer
    expected = {
        f"{layer}.{name}": (torch.float32, tuple(tensor.shape))
        for name, tensor in bypass.state_dict().items()
    }
    expected[f"{layer}.facts.expert"] = torch.int32, (facts,)
    expected[f"{layer}.facts.gece"] = torch.float32, (facts,)
    return expected


def check_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
) -> None:
    """Check that tensors are those expected, by name, dtype and shape.

    Raises:
        MalformedTensor: one is missing, unexpected, or of another dtype or shape.
        NotFinite: one contains NaN or an infinity.
    """
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise MalformedTensor(f"bypass.{unknown[0]}: no such tensor in a bypass of this config")
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise MalformedTensor(f"bypass.{name}: expected {dtype} of shape {shape}, but it is missing")
        found = tensors[name]
        if (found.dtype, tuple(found.shape)) != (dtype, shape):
            there = f"{found.dtype} of {tuple(found.shape)}"
            raise MalformedTensor(f"bypass.{name}: expected {dtype} of shape {shape}, found {there}")
        if found.is_floating_point() and not bool(found.isfinite().all()):
            raise NotFinite(f"bypass.{name}: expected finite numbers, found NaN or an infinity")
