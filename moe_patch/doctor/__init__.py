"""What moe-patch finds where it is installed, for its user and for a bug report."""

from __future__ import annotations

from moe_patch.doctor.devices import find_devices
from moe_patch.doctor.environment import storage, system
from moe_patch.doctor.reference import stored_reference
from moe_patch.doctor.report import Report
from moe_patch.doctor.requirements import releases
from moe_patch.doctor.self_test import run_self_test
from moe_patch.doctor.serving import plugin

__all__ = [
    "Report",
    "find_devices",
    "plugin",
    "releases",
    "run_self_test",
    "storage",
    "stored_reference",
    "system",
]
