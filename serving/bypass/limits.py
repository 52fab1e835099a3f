"""Refuses engine settings with which a bypass would be wrong, before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vllm.config import CUDAGraphMode

from moe_patch.bypass import BypassConfig
from moe_patch.errors import ConfigError
from moe_patch_serving.bypass.flags import NO_CHUNKS, NO_GRAPHS, NO_PREFIX_CACHE

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def check_limits(config: BypassConfig, vllm_config: VllmConfig) -> None:
    """Check an engine's settings for a bypass.

    Raises:
        ConfigError: the bypass would be wrong with them. The message lists everything to change.
    """
    if reasons := list(_reasons(config, vllm_config)):
        raise ConfigError(f"this bypass cannot run in an engine so set up: {'; '.join(reasons)}")


def _reasons(config: BypassConfig, vllm_config: VllmConfig) -> Iterator[str]:
    cache, parallel = vllm_config.cache_config, vllm_config.parallel_config
    if config.router_states == "final":
        yield (
            "its router reads the last hidden states of the model without it, which takes a second forward "
            "pass: build it with router_states 'block-input', or use it with transformers"
        )
    if cache.enable_prefix_caching:
        yield (
            "a prefix taken from the cache never comes past its router, and carries what another prompt's "
            f"expert did to it: serve with {NO_PREFIX_CACHE}"
        )
    if config.tokens == "all":
        yield from _piece_reasons(vllm_config)
    if cache.kv_sharing_fast_prefill:
        yield "fast prefill takes tokens out of the upper layers: serve without --kv-sharing-fast-prefill"
    if vllm_config.kv_transfer_config is not None:
        yield "a KV connector brings prompts that never came past its router: serve without one"
    if parallel.pipeline_parallel_size > 1:
        yield "it was not tried with pipeline stages: serve with --pipeline-parallel-size 1"
    if parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1:
        yield "context parallelism deals a prompt's tokens out to several workers: serve without it"
    if parallel.tensor_parallel_size > 1 and (parallel.enable_hc_sp or parallel.use_sequence_parallel_moe):
        yield (
            "sequence parallelism deals a step's tokens out to several workers, in some models before they "
            "reach the block: serve without --enable-hc-sp and --enable-expert-parallel"
        )
    if parallel.use_ubatching:
        yield "micro-batches run two halves of a batch at once: serve without --enable-dbo"
    if vllm_config.speculative_config is not None:
        yield "it was not tried with speculative decoding: serve without --speculative-config"
    yield from _graph_reasons(vllm_config)


def _piece_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    """Settings that split prompts: the expert is known only for the last piece."""
    scheduler, model = vllm_config.scheduler_config, vllm_config.model_config
    if scheduler.enable_chunked_prefill:
        yield (
            "its expert acts on the whole prompt, and is known only once all of it has come: serve with "
            f"{NO_CHUNKS} (and --max-num-batched-tokens of --max-model-len or more)"
        )
    if scheduler.long_prefill_token_threshold:
        yield "long prompts would come in pieces: serve without --long-prefill-token-threshold"
    images = model.multimodal_config
    if model.is_multimodal_model and not (images and images.language_model_only):
        yield "prompts with images would come in pieces: serve with --language-model-only"


def _graph_reasons(vllm_config: VllmConfig) -> Iterator[str]:
    if vllm_config.compilation_config.cudagraph_mode not in {None, CUDAGraphMode.NONE}:
        yield (
            "a CUDA graph would play the decisions of one batch to all others: serve with "
            f"{NO_GRAPHS[0]} '{NO_GRAPHS[1]}' or --enforce-eager"
        )
