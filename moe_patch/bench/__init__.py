"""Experiments: methods side by side on the same model and facts, one file a run, and one report.

Imported by `cli`, and by the scripts in `recipes/`. It imports `building` and what is below.
"""

from __future__ import annotations

from moe_patch.bench.runner import Bench, run_bench
from moe_patch.bench.suite import Arm, Suite, load_suite, shipped_suites

__all__ = ["Arm", "Bench", "Suite", "load_suite", "run_bench", "shipped_suites"]
