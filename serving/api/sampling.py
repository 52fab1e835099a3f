"""Greedy decoding, and the settings of a server that keep its other requests from it."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

_PROCESSORS = "vllm.logits_processors"  # the entry points of which vLLM loads all

_PLAIN: dict[str, Any] = {
    "n": 1,
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "min_tokens": 0,
    "stop": None,
    "bad_words": None,
    "logit_bias": None,
    "allowed_token_ids": None,
    "watermarking": False,
}


def greedy(length: int, **more: Any) -> SamplingParams:
    """At most `length` tokens, each the likeliest by the model's logits alone. `more` are other settings."""
    from vllm import SamplingParams  # noqa: PLC0415  slow; the server has imported it by now
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    return SamplingParams(
        max_tokens=length, output_kind=RequestOutputKind.FINAL_ONLY, detokenize=False, **_PLAIN, **more
    )


def sampling_settings(config: VllmConfig) -> dict[str, JsonValue]:
    """The server's settings that change what is said after a prompt.

    `defaults` are those of requests that do not say otherwise, from the model's `generation_config.json` or
    the server's arguments. `logits_processors` change the logits of every request, the self-test's included.
    """
    model = config.model_config
    defaults = {
        name: value
        for name, value in model.get_diff_sampling_param().items()
        if name in _PLAIN and value != _PLAIN[name]
    }
    if getattr(config, "watermark_config", None) is not None:
        defaults["watermarking"] = True
    given = [str(getattr(one, "__qualname__", one)) for one in model.logits_processors or ()]
    installed = [entry.value for entry in entry_points(group=_PROCESSORS)]
    return {"defaults": defaults, "logits_processors": [*given, *installed]}
