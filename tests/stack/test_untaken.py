"""Why a fact may not have taken, read from nothing but its patch."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from moe_patch.data.facts import Fact
from moe_patch.patch import LayerDelta, Patch
from moe_patch.patch.rows import Rows
from moe_patch.stack.untaken import share_taken, untaken_facts
from tests.patch.patches import fingerprint

KEYS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0], [1.0, 1.0]])


def patch_of(facts: tuple[Fact, ...], rows: Rows, **result: Any) -> Patch:
    """A patch of which only the last fact has not taken."""
    delta = LayerDelta.from_solution(torch.ones(len(facts), 3), rows, residual=None, ridge=1.0)
    return Patch(
        kind="delta",
        method="moeedit",
        hyperparameters={},
        base=fingerprint(2),
        facts=facts,
        results=(*({"taken": True} for _ in facts[:-1]), {"taken": False, **result}),
        layers={2: delta},
    )


def facts(*prompts: str) -> tuple[Fact, ...]:
    return tuple(Fact(f"f{i}", prompt, f"Town {i}", "Land") for i, prompt in enumerate(prompts))


def rows(keys: torch.Tensor, count: int) -> Rows:
    """The facts' keys, all at expert 1."""
    one = torch.ones(len(keys), dtype=torch.int64)
    return Rows(keys, one, torch.arange(len(keys)), count)


@pytest.mark.parametrize(
    ("prompts", "keys", "result", "reason"),
    [
        (("{} lies in", "{}"), KEYS[:2], {}, "the prompt is the subject alone"),
        (("{} lies in", "{} has"), KEYS[:2], {"shared_with": ["f0"]}, "shares its change with f0"),
        (("{} lies in", "{} lies in"), KEYS[:1], {}, "hardly reaches its experts in layer 2"),
        (("{} lies in", "{} lies in"), KEYS[1:3], {}, r"nearly those of f0 \(cosine 1.00\)"),
        (("{} lies in", "{} lies in"), KEYS[:2], {"loss_target": 2.0}, "no target value was found"),
        (
            ("{} lies in", "{} lies in"),
            KEYS[:2],
            {"loss_target": 2.0, "ended": "clamp"},
            "edit a lower layer",
        ),
        (("{} lies in", "{} lies in"), KEYS[:2], {"loss_target": 2.0, "ended": "stalled"}, "learning_rate"),
        (("{} lies in", "{} lies in"), KEYS[:2], {"loss_target": 0.1}, "do not reach its target value"),
        (("{} lies in", "{} lies in"), KEYS[:2], {"loss_target": 0.1, "room": 0.004}, r"\(0.4% is left\)"),
        (("{} lies in", "{} lies in"), KEYS[:2], {"loss_target": 0.1, "room": 0.02}, "do not reach its"),
    ],
)
def test_the_likely_reason_is_named(
    prompts: tuple[str, ...], keys: torch.Tensor, result: dict[str, Any], reason: str
) -> None:
    known = facts(*prompts)
    (one,) = untaken_facts(patch_of(known, rows(keys, len(known)), says="Sea", loss_edited=3.0, **result))
    assert (one.fact, one.says, one.loss) == (known[-1], "Sea", 3.0)
    assert len(one.reasons) == 1
    assert re.search(reason, one.reasons[0])


def test_a_patch_that_does_not_say_has_no_share_and_no_list() -> None:
    known = facts("{} lies in", "{} lies in")
    patch = patch_of(known, rows(KEYS[:2], 2))
    assert share_taken(patch) == 0.5
    for results in ((), ({"taken": "yes"}, {"taken": 1})):
        silent = replace(patch, results=results)
        assert (share_taken(silent), untaken_facts(silent)) == (None, [])
