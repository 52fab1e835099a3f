"""A codebook as part of a patch. Patches come from strangers, so tensors are checked against the config."""

from __future__ import annotations

import torch
from pydantic import JsonValue, ValidationError
from torch import Tensor

from moe_patch.bypass.codebook import Codebook, CodebookConfig
from moe_patch.bypass.serialization import check_layer, check_tensors
from moe_patch.errors import MalformedMetadata, MalformedTensor, PatchError
from moe_patch.io import strict_json
from moe_patch.patch.patch import Patch

KEY = "codebook"  # the name of the config among a patch's hyper-parameters


def holds_codebook(patch: Patch) -> bool:
    """Whether a patch of kind bypass holds a codebook and no experts."""
    return patch.kind == "bypass" and KEY in patch.hyperparameters


def write_codebook(codebook: Codebook, fact_key: Tensor) -> tuple[dict[str, JsonValue], dict[str, Tensor]]:
    """A codebook as an entry of a patch's hyper-parameters, and as `Patch.bypass` tensors. Both are copies.

    Args:
        codebook: in fp32.
        fact_key: (T,) the key of each fact, -1 for none.
    """
    layer = codebook.config.layer
    tensors = {
        f"{layer}.codebook.{name}": tensor.detach().clone().float()
        for name, tensor in codebook.state_dict().items()
    }
    tensors[f"{layer}.facts.key"] = fact_key.int()
    return {KEY: codebook.config.model_dump(mode="json")}, tensors


def read_codebook(patch: Patch) -> Codebook:
    """The codebook of a patch, in fp32 on the CPU and ready to run. The patch's tensors are copied.

    Raises:
        PatchError: the patch is of another kind.
        MalformedMetadata: the hyper-parameters have no valid config, or its layer is not that of the base.
        MalformedTensor: a tensor is missing, unexpected, or of another dtype or shape than the config says.
        NotFinite: a tensor contains NaN or an infinity.
    """
    config = _checked_config(patch)
    with torch.device("meta"):  # sizes only
        codebook = Codebook(config)
    state = {name: patch.bypass[f"{config.layer}.codebook.{name}"].clone() for name in codebook.state_dict()}
    codebook.load_state_dict(state, assign=True)
    return codebook.requires_grad_(False).eval()


def read_fact_keys(patch: Patch) -> Tensor:
    """The key (T,) of each fact of the patch, -1 for a fact that needed none.

    Raises:
        PatchError: as for `read_codebook`, and for a key that does not exist. The subclass says which.
    """
    config = _checked_config(patch)
    keys = patch.bypass[f"{config.layer}.facts.key"].long()
    if bool(((keys < -1) | (keys >= config.keys)).any()):
        raise MalformedTensor(f"bypass.{config.layer}.facts.key: expected -1 to {config.keys - 1}")
    return keys


def _checked_config(patch: Patch) -> CodebookConfig:
    """The config of a patch whose tensors fit it."""
    if not holds_codebook(patch):
        raise PatchError(f"expected a codebook in a patch of kind bypass, found one of kind {patch.kind}")
    try:
        config = CodebookConfig.model_validate(patch.hyperparameters[KEY])
    except ValidationError as error:
        raise MalformedMetadata(f"hyperparameters.{KEY}: {strict_json.first_complaint(error)}") from error
    check_layer(patch, config.layer, KEY)
    layer, sides = config.layer, (config.keys, config.width)
    check_tensors(
        patch.bypass,
        {
            f"{layer}.codebook.key": (torch.float32, sides),
            f"{layer}.codebook.value": (torch.float32, sides),
            f"{layer}.codebook.radius": (torch.float32, sides[:1]),
            f"{layer}.facts.key": (torch.int32, (len(patch.facts),)),
        },
    )
    return config
