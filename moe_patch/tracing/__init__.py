"""Where a base keeps facts: causal tracing by layer, by expert, and by coalition of experts.

`methods` and everything above may import this package. It imports `evaluation` and what is below.
"""

from __future__ import annotations

from moe_patch.tracing.choice import choose_layers
from moe_patch.tracing.experts import ExpertEffect, LayerExperts, trace_experts
from moe_patch.tracing.location import Location, locate_edit
from moe_patch.tracing.report import Effect, LayerEffect, TracedFact, TraceReport
from moe_patch.tracing.trace import trace

__all__ = [
    "Effect",
    "ExpertEffect",
    "LayerEffect",
    "LayerExperts",
    "Location",
    "TraceReport",
    "TracedFact",
    "choose_layers",
    "locate_edit",
    "trace",
    "trace_experts",
]
