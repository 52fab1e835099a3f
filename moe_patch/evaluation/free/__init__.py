"""What a model says when it writes freely: until it stops itself, and not for as long as the answer is.

The papers' scores know how long the right answer is, and most of them what its first tokens are. The same
edits fare much worse where a model writes by itself ("The Mirage of Model Editing", arXiv 2502.11177). Here
it does, greedily, and its replies are compared with the answers.

Imported by the rest of `evaluation` and above. It imports `evaluation.metrics`, `evaluation.scoring` and what
is below.
"""

from __future__ import annotations

from moe_patch.evaluation.free.judge import Judge, Judgement
from moe_patch.evaluation.free.measure import FreeSetting, measure_free
from moe_patch.evaluation.free.questions import Asked, Kind
from moe_patch.evaluation.free.scores import Answered, FreeScore, FreeScores
from moe_patch.evaluation.free.writing import BUDGET, Reply, write_freely

__all__ = [
    "BUDGET",
    "Answered",
    "Asked",
    "FreeScore",
    "FreeScores",
    "FreeSetting",
    "Judge",
    "Judgement",
    "Kind",
    "Reply",
    "measure_free",
    "write_freely",
]
