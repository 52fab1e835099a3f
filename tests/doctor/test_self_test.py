"""The self-test, run for real."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch.utils import backend_registration

from moe_patch.doctor import run_self_test, self_test, stored_reference
from moe_patch.doctor.report import SelfTestResult
from moe_patch.doctor.self_test import measure_figures
from moe_patch.io.cache import cache_folder

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def on_cpu() -> SelfTestResult:
    return run_self_test("cpu", stored_reference())


def test_it_passes_here_with_room(on_cpu: SelfTestResult) -> None:
    assert on_cpu.passed, on_cpu.failures
    for check in on_cpu.checks:
        assert check.furthest is None or check.furthest <= check.tolerance / 2, check.name


def test_every_figure_that_is_measured_is_held_to_a_stored_one(on_cpu: SelfTestResult) -> None:
    assert [check.name for check in on_cpu.checks] == list(stored_reference().checks)


def test_it_leaves_the_cache_and_torch_as_they_were(on_cpu: SelfTestResult) -> None:
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(2)
    try:
        assert not run_self_test("no-such-device", stored_reference()).passed
        assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == ("high", 2)
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.set_num_threads(1)
    assert not cache_folder().exists()


def test_what_a_device_refuses_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lost(**_: object) -> NoReturn:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(self_test, "open_base", lost)
    with caplog.at_level(logging.DEBUG, "moe_patch.doctor"):
        test = run_self_test("cpu", stored_reference())
    assert not test.passed
    assert test.error == "RuntimeError: the device is lost"
    assert caplog.records[-1].exc_info


def test_a_patch_that_does_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an `apply` that does nothing, exactly the checks that depend on the patch fail."""
    from contextlib import nullcontext

    from moe_patch.doctor import self_test

    monkeypatch.setattr(self_test, "apply", lambda *_, **__: nullcontext())
    failed = {check.name for check in stored_reference().compare(measure_figures("cpu")) if not check.passed}
    assert failed == {
        "norm of the delta by layer",
        "answers, merged",
        "log-probabilities of new answers, merged",
        "answers, hooked",
    }


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot be told of devices from Python",
)
def test_another_device_is_found_and_tested() -> None:
    """Runs in a separate process, because torch cannot forget a device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "device_checks.py"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
