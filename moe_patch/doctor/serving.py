"""Whether vLLM is installed, and whether the plugin would be on in it. vLLM is not imported."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points

from moe_patch.doctor.report import Plugin
from moe_patch.doctor.requirements import vllm_release
from moe_patch.errors import ConfigError
from moe_patch.versions import VLLM, check_vllm
from moe_patch_serving import NAME
from moe_patch_serving.launch.plugin import DISABLE, plugin_disabled

_GROUPS = ("vllm.general_plugins", "vllm.endpoint_plugins")


def plugin_state(environment: Mapping[str, str] = os.environ) -> Plugin:
    """The state of the plugin in this environment."""
    return Plugin(vllm_release(), VLLM, tuple(_reasons(environment)))


def _reasons(environment: Mapping[str, str]) -> Iterator[str]:
    """The reasons that keep the plugin off."""
    try:
        check_vllm()
    except ConfigError as error:
        yield str(error)
    if plugin_disabled(environment):
        yield f"{DISABLE} is {environment[DISABLE]!r}: unset it"
    for group in _GROUPS:
        if not any(entry.name == NAME for entry in entry_points(group=group)):
            yield f"no entry point {NAME} in {group}: install moe-patch in vLLM's environment again"
    named = environment.get("VLLM_PLUGINS")
    if named is not None and NAME not in named.split(","):
        yield f"VLLM_PLUGINS is {named!r}: name {NAME} in it, as `moe-patch serve` does"
