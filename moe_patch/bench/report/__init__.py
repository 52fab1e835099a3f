"""Runs as figures, tables, drawings and one HTML page, and two sets of runs compared."""

from __future__ import annotations

from moe_patch.bench.report.compare import Comparison, compare
from moe_patch.bench.report.evaluations import Evaluated, evaluations_table, read_evaluations
from moe_patch.bench.report.figures import Figure
from moe_patch.bench.report.page import html_page
from moe_patch.bench.report.runs import Group, RunSet, Section, read_run_set
from moe_patch.bench.report.tables import (
    Grid,
    comparison_table,
    csv_text,
    free_table,
    score_table,
    summary_table,
)

__all__ = [
    "Comparison",
    "Evaluated",
    "Figure",
    "Grid",
    "Group",
    "RunSet",
    "Section",
    "compare",
    "comparison_table",
    "csv_text",
    "evaluations_table",
    "free_table",
    "html_page",
    "read_evaluations",
    "read_run_set",
    "score_table",
    "summary_table",
]
