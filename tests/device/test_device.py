"""The library with models that are not on the CPU: see checks.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch cannot be told of devices from Python",
)
def test_models_on_another_device_give_what_those_on_the_cpu_give() -> None:
    """In a process of its own, since a device that torch has come to know stays known.

    Over 5 s: every operator there passes through Python.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "checks.py"]
    done = subprocess.run(command, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
