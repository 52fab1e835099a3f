"""The options of a build: where each comes from, and the search for good ones.

Imported by `building` and above. It imports `methods`, `tracing`, `evaluation` and what is below.
"""

from __future__ import annotations

from moe_patch.tuning.choice import Choice, Source, choose, settle

__all__ = ["Choice", "Source", "choose", "settle"]
