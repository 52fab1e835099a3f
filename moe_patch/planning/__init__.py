"""How much a build will take: memory and time by stage, from a model's config and a look at the machine.

Imported by `building` and `cli`. It imports `tuning` and what is below, and reads no weights.
"""

from __future__ import annotations

from moe_patch.planning.job import plan_job
from moe_patch.planning.outline import ModelOutline, outline_model
from moe_patch.planning.placement import Gpus
from moe_patch.planning.plan import Plan, make_plan
from moe_patch.planning.resources import Resources

__all__ = ["Gpus", "ModelOutline", "Plan", "Resources", "make_plan", "outline_model", "plan_job"]
