"""The options that are given for a build, by the names that the chosen method has for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_patch.methods.base import Method
from moe_patch.methods.overrides import option_names, parse_setting

NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("layers", "layer"),
    "batch_size": ("batch_size",),
    "solver": ("solver",),
    "ridge": ("ridge",),
    "projection": ("projection",),
    "protect_earlier": ("protect_earlier",),
    "unseen": ("unseen",),
    "corpus": ("corpus",),
    "seed": ("seed", "targets.seed"),
    "fact_token": ("targets.fact_token",),
    "chat": ("targets.chat", "chat"),
    "stop": ("targets.stop", "stop"),
}
"""The options that each flag sets, as far as a method has them."""


def given_options(
    method: Method[Any], flags: Mapping[str, Any], settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Values by dotted names.

    A flag that the method has no option for keeps its name, so that it is refused as unknown.

    Args:
        method: the method.
        flags: values by the names of `NAMES`; None for a flag that is not given.
        settings: of the form "key=value", such as "targets.clamp=0.5"; they win over flags.

    Raises:
        ConfigError: a setting has no `=` or no key, or its value is not YAML.
    """
    known = set(option_names(method.Options))
    given: dict[str, Any] = {}
    for flag, value in flags.items():
        if value is not None:
            names = [name for name in NAMES[flag] if name in known]
            given |= dict.fromkeys(names or NAMES[flag][:1], value)
    return given | dict(map(parse_setting, settings))
