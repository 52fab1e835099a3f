"""What editors solve for in models that scale the experts' output."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from moe_patch.apply import apply
from moe_patch.base.keys import measure_keys
from moe_patch.base.model import Base
from moe_patch.data.prompts import encode_fact
from moe_patch.methods import editors
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.search import find_targets
from tests.methods.builds import build, facts
from tests.tiny import tiny_base

METHODS = ["moeedit", "moeedit-penalty", "mote", "woodbury-spread", "bcd-spread"]
TARGETS = TargetOptions(steps=5, learning_rate=0.5)


def missing(method: str, base: Base) -> float:
    """The share of one fact's target change of the stream after layer 1 that a patch of layer 1 misses."""
    (fact,) = edits = facts(1)
    own: dict[str, Any] = {"mote": {"ranks": (1.0, 1.0, 1.0)}, "bcd-spread": {"passes": 100}}.get(method, {})
    patch = build(method, base, count=1, layers=(1,), ridge=1e-6, ridge_relative=True, targets=TARGETS, **own)
    found = find_targets(base, edits, 1, TARGETS)
    prompt = encode_fact(base.reader, fact, TARGETS.style)
    with apply(base, patch, mode="hook"):
        _, stream = measure_keys(base, [prompt], [1], 1, 1)
    return float((found.value - stream).norm() / (found.value - found.start).norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("model_type", "overrides", "gain"),
    [
        ("granitemoe", {"residual_multiplier": 0.22}, 0.22),
        ("minimax", {"mlp_alpha_factor": 2.0, "mlp_beta_factor": 1.5}, 1.5),
        ("laguna", {"moe_routed_scaling_factor": 2.5}, 2.5),
    ],
)
def test_a_fact_reaches_its_target_value_through_a_scaled_output(
    method: str, model_type: str, overrides: dict[str, Any], gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(model_type, **overrides)
    assert missing(method, base) < 1e-3
    monkeypatch.setattr(editors, "asked_gain", lambda *_: 1.0)
    assert missing(method, base) == pytest.approx(abs(1.0 - gain), rel=1e-2)


def test_it_is_said_where_there_is_no_factor(caplog: pytest.LogCaptureFixture) -> None:
    base = tiny_base("afmoe")
    with caplog.at_level(logging.WARNING):
        build("moeedit", base, count=1, layers=(1,))
    (record,) = [record for record in caplog.records if record.name == "moe_patch.base.gain"]
    assert "layer 1: post_mlp_layernorm follows the experts" in record.message
    assert "may miss their target values" in record.message
