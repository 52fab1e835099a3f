"""What `moe-patch serve` says before vLLM takes over: who may change it, its memory, why it takes long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from moe_patch_serving.api.settings import read_settings
from moe_patch_serving.launch.memory import OPTION

_EAGER = "--enforce-eager"


def starting_notes(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """The lines to say.

    Args:
        command: the command line of vLLM.
        environment: its environment.

    Raises:
        ConfigError: a setting is malformed.
    """
    settings = read_settings(environment)
    if settings.tokens:
        names = ", ".join(token.name for token in settings.tokens)
        places = ", ".join([*map(str, settings.allowed.folders), *settings.allowed.hub])
        yield f"Live changes are open to the tokens of: {names}."
        yield f"Patches may come from: {places}." if places else "Patches may come from nowhere: see --allow."
    else:
        yield "Live changes are off."
    if OPTION in command:
        share = float(command[command.index(OPTION) + 1])
        gib = share * psutil.virtual_memory().total / 2**30
        yield (
            f"The engine takes {share:.0%} of this machine's memory, about {gib:.1f} GiB, for weights and "
            f"its cache (-- {OPTION} changes it)."
        )
    yield _why_slow(command, environment)


def _why_slow(command: Sequence[str], environment: Mapping[str, str]) -> str:
    if _EAGER in command:
        return "vLLM starts: it imports its kernels and loads the weights, which takes up to a minute or two."
    compiled = _cache(environment) / "torch_compile_cache"
    if compiled.is_dir() and any(compiled.iterdir()):
        return f"vLLM starts, with what it has compiled before for models that it knows ({compiled})."
    return (
        "vLLM starts. The first start takes minutes: it compiles the model for this machine and keeps the "
        f"result in {compiled} for the next. `-- {_EAGER}` starts without, and answers more slowly."
    )


def _cache(environment: Mapping[str, str]) -> Path:
    """vLLM's own cache."""
    usual = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environment.get("VLLM_CACHE_ROOT") or f"{usual}/vllm").expanduser()
