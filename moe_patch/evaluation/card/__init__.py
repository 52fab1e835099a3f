"""Whether a patch is good, from a bounded number of prompts and a little text: the end of every build.

Imported by `building` and above. It imports the rest of `evaluation`, `elicit` and what is below.
"""

from __future__ import annotations

from moe_patch.evaluation.card.make import make_card
from moe_patch.evaluation.card.other_text import held_out
from moe_patch.evaluation.card.report import Card, Reply, Share

__all__ = ["Card", "Reply", "Share", "held_out", "make_card"]
