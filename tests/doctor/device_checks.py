"""`moe-patch doctor` with a second device. Run by test_self_test.py in a process of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moe_patch.base.model import Base
from moe_patch.base.opening import open_base
from moe_patch.cli import main
from moe_patch.doctor import self_test
from tests.device.simulated import DEVICE, move


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["doctor", *arguments], prog_name="moe-patch")


def test_it_is_listed_and_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*, device_map: str, **options: Any) -> Base:
        base = open_base(**options)  # weights cannot be loaded onto a simulated device, but moved there
        assert device_map == str(DEVICE)
        move(base.model)
        return base

    monkeypatch.setattr(self_test, "open_base", opened)
    result = doctor("--json", "--device", str(DEVICE))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [device["name"] for device in report["devices"]] == ["cpu", str(DEVICE)]
    assert report["devices"][1]["free"] is None
    assert [(test["device"], test["passed"]) for test in report["self_tests"]] == [(str(DEVICE), True)]


def test_one_that_fails_does_not_keep_the_others_from_their_test() -> None:
    """If the model is loaded as on other devices, it has no parameters on this one, and is refused."""
    result = doctor()
    assert result.exit_code == 1
    assert "Self-test on cpu: passed" in result.stdout
    assert f"Self-test on {DEVICE}: failed" in result.stdout
    assert f"Failed on {DEVICE}: ModelError: " in result.stderr
