"""The vLLM command that serves a model with its patches, and its environment."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from itertools import zip_longest
from pathlib import Path
from typing import Any

from moe_patch.errors import ConfigError
from moe_patch.export.lora_forms import form_for
from moe_patch.io.model_place import ModelPlace, find_model
from moe_patch.io.shipped import demo_model
from moe_patch.versions import check_vllm, vllm_on_cpu
from moe_patch_serving import NAME
from moe_patch_serving.api.settings import ALLOW, WORKER, read_settings
from moe_patch_serving.api.starting import STARTED
from moe_patch_serving.api.tokens import TOKEN, TOKEN_FILE
from moe_patch_serving.bypass.flags import stack_flags
from moe_patch_serving.launch.memory import OPTION, cpu_memory_share, stored_bytes

_PLUGIN_GROUPS = (
    "vllm.general_plugins",
    "vllm.io_processor_plugins",
    "vllm.platform_plugins",
    "vllm.stat_logger_plugins",
)  # that load all there is until VLLM_PLUGINS names some


@dataclass(frozen=True, slots=True)
class Serving:
    """What to serve: a model, by name or folder, a stack for its weights, and adapters by name.

    `allow` lists the allowed places of live patches. `arguments` are passed to vLLM unchanged and override
    the derived ones. With `allow_large`, the stack's changes may be much larger than the experts. Without
    `live`, the server takes no live changes, whatever tokens there are.
    """

    model: str | None = None
    stack: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    allow: Sequence[str] = ()
    token_file: Path | None = None
    arguments: Sequence[str] = ()
    allow_large: bool = False
    live: bool = True

    def command(self) -> list[str]:
        """The command line. Its -P stops Python from importing modules of the working folder.

        Raises:
            ConfigError: vLLM is missing or not supported, or an adapter is malformed.
            ModelError: there is no such model, or the Hub cannot be reached and it was not fetched before.
        """
        check_vllm()
        place = self._place()
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main", "serve", *_model(place)]
        command += ["--worker-extension-cls", WORKER, "--api-server-count", "1"]
        if self.stack is not None:
            extra: dict[str, Any] = {"stack": str(self.stack.resolve())}
            extra |= {"allow_large": True} if self.allow_large else {}
            command += ["--load-format", NAME, "--model-loader-extra-config", json.dumps(extra)]
            command += stack_flags(self.stack)
        return [*command, *_adapter_arguments(self.adapters), *self._memory(place), *self.arguments]

    def _place(self) -> ModelPlace:
        """Where the model is: vLLM would try a name that leads nowhere again and again, in a long start."""
        revision, cache = (_option(self.arguments, name) for name in ("--revision", "--download-dir"))
        return find_model(self.model, revision=revision, cache_dir=cache)

    def _memory(self, place: ModelPlace) -> list[str]:
        """What an engine on the CPU may take, unless that is given; on a GPU vLLM's own default is good."""
        if not vllm_on_cpu():
            return []
        weights = 0 if place.folder is None else stored_bytes(place.folder)
        share = cpu_memory_share(weights, self.arguments, os.environ)
        return [] if share is None else [OPTION, f"{share:.2f}"]

    def environment(self, present: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment: the plugins to load, and the settings of `moe_patch_serving.api.settings`.

        Raises:
            ConfigError: the server would refuse a setting, after minutes of starting.
        """
        environment = dict(present)
        environment["VLLM_PLUGINS"] = _plugins(present.get("VLLM_PLUGINS"))
        if not self.live:
            environment.pop(TOKEN, None)
            environment.pop(TOKEN_FILE, None)
        elif self.token_file is not None:
            environment.pop(TOKEN, None)
            environment[TOKEN_FILE] = str(self.token_file.resolve())
        places = [place if place.startswith("hf://") else str(Path(place).resolve()) for place in self.allow]
        if self.stack is not None:
            places.append(str(self.stack.resolve().parent))
        if places:
            environment[ALLOW] = "\n".join(places)
        read_settings(environment)
        environment[STARTED] = f"{time.time():.3f}"
        return environment


def _model(place: ModelPlace) -> list[str]:
    """The model for vLLM, served under the name that the user gave it."""
    named = [] if place.source == place.name else ["--served-model-name", place.name]
    # vLLM would round the demo model
    dtype = ["--dtype", "float32"] if place.folder == demo_model() else []
    return [place.source, *named, *dtype]


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of one of vLLM's options, the last if it is given twice; None if it is not given."""
    found = None
    for argument, following in zip_longest(arguments, arguments[1:]):
        option, equals, value = argument.partition("=")
        if option.replace("_", "-") == name:
            found = value if equals else following
    return found


def _plugins(named: str | None) -> str:
    """VLLM_PLUGINS with our plugin in it. vLLM adds routes only for plugins that are named there.

    If it was unset, all installed plugins are named: naming only one would switch the others off.
    """
    names = named.split(",") if named is not None else _installed_plugins()
    return ",".join(dict.fromkeys([*names, NAME]))


def _installed_plugins() -> list[str]:
    return [plugin.name for group in _PLUGIN_GROUPS for plugin in entry_points(group=group)]


def _adapter_arguments(adapters: Mapping[str, Path]) -> list[str]:
    """vLLM's arguments for adapters: their names and folders, and room for the highest rank."""
    if not adapters:
        return []
    room = form_for("vllm", "split").room(max(_rank(folder) for folder in adapters.values()))
    modules = [f"{name}={folder.resolve()}" for name, folder in adapters.items()]
    return [
        "--enable-lora",
        "--max-lora-rank",
        str(room),
        "--max-loras",
        str(len(adapters)),
        "--lora-modules",
        *modules,
    ]


def _rank(folder: Path) -> int:
    """The rank of an adapter, from its config."""
    path = folder / "adapter_config.json"
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        rank = config["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder} is no adapter: {path.name} is missing or says no rank; write one with "
            "`moe-patch export --format vllm-lora`"
        ) from error
    if not isinstance(rank, int) or rank < 1:
        raise ConfigError(f"{path}: r: expected a rank from 1 up, found {rank!r}")
    return rank
