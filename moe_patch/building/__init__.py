"""The whole job: from facts and a model to a patch, for the command line and for Python alike.

Imported by `bench`, `doctor` and `cli`. It imports `planning`, `tuning`, `methods` and what is below.
"""

from __future__ import annotations

from moe_patch.building.build import build
from moe_patch.building.job import BuildJob, BuildRequest, Built, build_patch, open_job

__all__ = ["BuildJob", "BuildRequest", "Built", "build", "build_patch", "open_job"]
