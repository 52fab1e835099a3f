"""What runs inside or beside an inference engine that serves patched models."""

from __future__ import annotations

NAME = "moe_patch"
"""What the load format and the weight-transfer backend are called."""
