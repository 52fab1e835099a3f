"""The load format `moe_patch`: vLLM's own loader, which adds a patch to the weights as it reads them.

    vllm serve BASE --load-format moe_patch --model-loader-extra-config '{"stack": "moe-patch.stack"}'

Tensors are changed before vLLM shards, packs or quantises them, so this does not depend on how vLLM does it.
"""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from moe_patch.errors import ConfigError, PatchError
from moe_patch.patch import Patch, load
from moe_patch.stack import ResolvedStack, resolve_with_bypasses
from moe_patch_serving.bypass.install import install_bypass, prepare_bypass
from moe_patch_serving.load.stream import PatchedStream
from moe_patch_serving.source import served_checkpoint

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig
    from vllm.config.load import LoadConfig

logger = logging.getLogger(__name__)

_SOURCES = ("stack", "patch")
_ALLOW_LARGE = "allow_large"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPatches:
    """The patches that were added to a served model at loading, and their sum, which live changes need."""

    hashes: tuple[str, ...] = ()  # the lowest first
    delta: Patch | None = None  # None if all of them are bypasses, or there are none


_loaded: weakref.WeakKeyDictionary[nn.Module, LoadedPatches] = weakref.WeakKeyDictionary()


def loaded_patches(model: nn.Module) -> LoadedPatches:
    """The patches that were added to a served model at loading."""
    return _loaded.get(model, LoadedPatches())


class PatchLoader(DefaultModelLoader):
    """vLLM's default loader, with one patch or one stack to add.

    It takes a path as `stack` or `patch` from `model_loader_extra_config`, and `allow_large`, which accepts
    changes that are much larger than their experts. The other keys are for the default loader.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        """Read the patch or the stack.

        Raises:
            ConfigError: `model_loader_extra_config` is not as expected.
            MoePatchError: the patch or the stack cannot be read.
        """
        extra = dict(_mapping(load_config.model_loader_extra_config))
        self._allow_large = _flag(extra.pop(_ALLOW_LARGE, False))
        self._parts = _read_source({key: extra.pop(key) for key in _SOURCES if key in extra})
        inner = copy.copy(load_config)
        inner.load_format, inner.model_loader_extra_config = "auto", extra
        super().__init__(inner)
        self._stream: PatchedStream | None = None

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, prefix: str = "") -> nn.Module:
        """The model with the patch. A draft model is not changed."""
        if _is_draft(model_config):
            draft: nn.Module = super().load_model(vllm_config, model_config, prefix)
            return draft
        bypasses = [(prepare_bypass(patch, vllm_config), patch.hash) for patch in self._parts.bypasses]
        model: nn.Module = super().load_model(vllm_config, model_config, prefix)
        for bypass, digest in bypasses:
            install_bypass(model, bypass, digest, vllm_config)
        _loaded[model] = LoadedPatches(self._parts.hashes, self._parts.delta)
        return model

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """Load the weights, and check that every expert that the patch changes was read."""
        if self._parts.delta is not None and not _is_draft(model_config):
            checkpoint = served_checkpoint(model_config, self.load_config)
            assert isinstance(model_config.dtype, torch.dtype)  # no longer the name that users give
            self._stream = PatchedStream(
                checkpoint, self._parts.delta, model_config.dtype, allow_large=self._allow_large
            )
        super().load_weights(model, model_config)
        if self._stream is not None:
            self._stream.finish(self.local_expert_ids)
            logger.info("Added patches %s to the weights", ", ".join(self._parts.hashes))
        self._stream = None

    def get_all_weights(
        self, model_config: ModelConfig, model: nn.Module
    ) -> Generator[tuple[str, Tensor], None, None]:
        """The checkpoint's tensors, with the deltas added to those of touched experts."""
        tensors = super().get_all_weights(model_config, model)
        yield from tensors if self._stream is None else self._stream.apply(tensors)


def _is_draft(model_config: ModelConfig) -> bool:
    """Whether this is the draft model of speculative decoding, which has other experts."""
    return model_config.runner_type == "draft"


def _mapping(extra: Any) -> dict[str, Any]:
    if not isinstance(extra, dict):
        raise ConfigError("model_loader_extra_config: expected a JSON object with `stack` or `patch`")
    return extra


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"model_loader_extra_config: {_ALLOW_LARGE}: expected true or false")
    return value


def _read_source(own: dict[str, Any]) -> ResolvedStack:
    """What to load: one delta for the weights, bypasses to put beside them, or both."""
    if len(own) != 1 or not all(isinstance(path, str) and path for path in own.values()):
        raise ConfigError(
            "load format moe_patch: give one path in --model-loader-extra-config, as in "
            """'{"stack": "moe-patch.stack"}' or '{"patch": "capitals.safetensors"}'"""
        )
    if "patch" in own:
        patch = load(Path(own["patch"]))
        if patch.kind == "prompt":
            raise PatchError(f"{own['patch']}: it changes prompts alone, and there is nothing to serve")
        delta, bypasses = (patch, ()) if patch.kind == "delta" else (None, (patch,))
        return ResolvedStack(delta, bypasses, (patch.hash,), ())
    parts = resolve_with_bypasses(Path(own["stack"]))
    for note in parts.notes:
        logger.warning("%s: %s", own["stack"], note)
    return parts
