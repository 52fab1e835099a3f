"""What `moe-patch eval --json` prints, by the report's own code, for a patch that nobody measured."""

from __future__ import annotations

import json
from typing import Any

from moe_patch.evaluation.metrics import GeneratedScores, Measurement, Score, Scores
from moe_patch.evaluation.report import EvaluationReport
from moe_patch.evaluation.rules import Scoring

_NONE = Score(None, None, 0)


def _scores(hits: int, *, complete: bool = True) -> Scores:
    some = Score.of([1.0] * hits + [0.0] * (8 - hits))
    return Scores(some, some, some) if complete else Scores(some, _NONE, _NONE)


def _measured(hits: int, *, generated: bool) -> Measurement:
    own = _scores(hits, complete=not generated)
    made = GeneratedScores(_scores(hits), _scores(hits)) if generated else None
    return Measurement(own, own, _NONE, _NONE, _NONE, made)


def eval_json(patch_hash: str, *, generated: bool = False) -> dict[str, Any]:
    """Scores of 87.5 percent with the patch, and of 25 without it.

    Args:
        patch_hash: of the patch.
        generated: whether the facts have no prompts but their own, so that the base made the others.
    """
    report = EvaluationReport(
        Scoring("native", "counterfact", "target_true"),
        8,
        _measured(7, generated=generated),
        _measured(2, generated=generated),
        Score.of([1.0, 0.0]),
        _NONE,
        None,
        None,
        hash=patch_hash,
    )
    read: dict[str, Any] = json.loads(json.dumps(report.to_json()))
    return read
