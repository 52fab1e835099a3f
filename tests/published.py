"""MoEEdit's options as published (arXiv 2602.10965), but for the solver: the absolute forms."""

from __future__ import annotations

from typing import Any

TARGETS: dict[str, Any] = {
    "units": "published",
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "clamp": 0.75,
    "margin": None,
    "share": 1.0,
    "stop_loss": 0.05,
    "patience": None,
    "steps": 25,
}

MOEEDIT: dict[str, Any] = {"ridge": 1.0, "ridge_relative": False, "tau": 0.02, "targets": TARGETS}
