"""Whether the plugin would be on, judged from metadata and environment alone."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from moe_patch.doctor.serving import plugin_state
from tests.doctor.installed import install


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a supported vLLM, as far as metadata goes."""
    install(tmp_path, "vllm", "0.32.1")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_is_on_in_a_supported_vllm(vllm: Path) -> None:
    found = plugin_state({})
    assert (found.vllm, found.on, found.off_because) == ("0.32.1", True, ())
    assert "0.32" in found.supported
    assert plugin_state({"MOE_PATCH_DISABLE": "0", "VLLM_PLUGINS": "other,moe_patch"}).on


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"MOE_PATCH_DISABLE": "1"}, "MOE_PATCH_DISABLE is '1'"),
        ({"VLLM_PLUGINS": "other"}, "VLLM_PLUGINS is 'other'"),
        ({"VLLM_PLUGINS": ""}, "VLLM_PLUGINS is ''"),
    ],
)
def test_the_environment_can_keep_it_off(vllm: Path, environment: dict[str, str], reason: str) -> None:
    found = plugin_state(environment)
    assert not found.on
    assert [text.startswith(reason) for text in found.off_because] == [True]


def test_another_vllm_keeps_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "vllm", "0.40.0")
    monkeypatch.syspath_prepend(tmp_path)
    found = plugin_state({})
    assert found.vllm == "0.40.0"
    assert [text.startswith("vLLM 0.40.0 is not supported") for text in found.off_because] == [True]


def test_an_installation_without_entry_points_keeps_it_off(vllm: Path) -> None:
    install(vllm, "moe-patch", version("moe-patch"))
    assert [text.partition(":")[0] for text in plugin_state({}).off_because] == [
        "no entry point moe_patch in vllm.general_plugins",
        "no entry point moe_patch in vllm.endpoint_plugins",
    ]


def test_vllm_is_not_imported(vllm: Path) -> None:
    (vllm / "vllm.py").write_text("raise SystemExit('vLLM was imported')\n", encoding="utf-8")
    code = "from moe_patch.doctor import plugin_state; print(plugin_state().vllm)"
    environment = os.environ | {"PYTHONPATH": str(vllm)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0.32.1"), done.stderr
