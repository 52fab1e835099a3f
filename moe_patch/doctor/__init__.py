"""What moe-patch finds where it is installed, for its user and for a bug report."""

from __future__ import annotations

from moe_patch.doctor.devices import find_devices
from moe_patch.doctor.environment import find_storage, find_system
from moe_patch.doctor.reference import stored_reference
from moe_patch.doctor.report import DoctorReport
from moe_patch.doctor.requirements import find_releases
from moe_patch.doctor.self_test import run_self_test
from moe_patch.doctor.serving import find_plugin

__all__ = [
    "DoctorReport",
    "find_devices",
    "find_plugin",
    "find_releases",
    "find_storage",
    "find_system",
    "run_self_test",
    "stored_reference",
]
