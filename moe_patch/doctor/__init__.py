"""A report on an installation of moe-patch, for its user and for bug reports.

Imported by `cli`. It may import everything else.
"""

from __future__ import annotations

from moe_patch.doctor.devices import find_devices
from moe_patch.doctor.environment import storage_info, system_info
from moe_patch.doctor.reference import stored_reference
from moe_patch.doctor.report import DoctorReport
from moe_patch.doctor.requirements import required_releases
from moe_patch.doctor.self_test import run_self_test
from moe_patch.doctor.serving import plugin_state

__all__ = [
    "DoctorReport",
    "find_devices",
    "plugin_state",
    "required_releases",
    "run_self_test",
    "storage_info",
    "stored_reference",
    "system_info",
]
