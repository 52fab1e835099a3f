"""Checkpoints on disk: merging patches into them and taking them out again.

Imported by `export`, `share`, serving and `cli`. It imports `apply`, for the arithmetic of weights, and what
is below.
"""

from __future__ import annotations

from moe_patch.checkpoint.folder import Checkpoint, open_checkpoint
from moe_patch.checkpoint.merge import MergePlan, plan_merge
from moe_patch.checkpoint.record import Record, read_record
from moe_patch.checkpoint.unmerge import unmerge_checkpoint

__all__ = [
    "Checkpoint",
    "MergePlan",
    "Record",
    "open_checkpoint",
    "plan_merge",
    "read_record",
    "unmerge_checkpoint",
]
