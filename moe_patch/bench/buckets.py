"""Scores by how frequent a fact's knowledge is (MEMoE, Figures 1 and 5).

Facts are ordered by GECE, which is high for rare knowledge, and divided into buckets of equal size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from moe_patch.base.blocks import find_block
from moe_patch.base.model import Base
from moe_patch.data.fact_file import FactFile, schema_of_facts
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle
from moe_patch.evaluation import Setting, evaluate
from moe_patch.methods.memoe.frequency import gece, knowledge_of
from moe_patch.patch import Patch

LANGUAGE = "en"
"""Of the facts, for word frequencies and stems."""


def frequency_buckets(
    base: Base, facts: Sequence[Fact], layer: int, count: int, chat: bool = False
) -> list[tuple[Sequence[Fact], list[float]]]:
    """The facts by rising GECE in at most `count` buckets, the frequent ones first, each with its GECE.

    Args:
        base: the bare model.
        facts: at least one.
        layer: whose block's gradients are taken; the edited one, since GECE is about an edit there.
        count: how many buckets; fewer if there are fewer facts.
        chat: whether prompts are put under the chat template.

    Raises:
        ConfigError: the packages for word frequencies or stems are not installed.
        ModelError: the layer has no block of its own.
    """
    known = knowledge_of(base, find_block(base, layer), facts, PromptStyle(chat, "last"), LANGUAGE)
    values = gece(known, known.gradient.mean(0))  # (T,)
    schema = schema_of_facts(facts)
    parts = torch.tensor_split(values.argsort(), min(count, len(facts)))
    return [
        (FactFile(tuple(facts[i] for i in part.tolist()), (), schema), values[part].tolist())
        for part in parts
    ]


def scores_by_bucket(
    base: Base,
    patch: Patch,
    buckets: Sequence[tuple[Sequence[Fact], list[float]]],
    setting: Setting,
) -> list[dict[str, Any]]:
    """The scores of each bucket's facts, as plain data.

    Raises:
        MoePatchError: as for `evaluate`.
    """
    return [
        {
            "facts": len(facts),
            "gece": [min(values), max(values)],
            "scores": evaluate(
                base, patch, facts, routing=False, allow_large=True, setting=setting
            ).to_json(),
        }
        for facts, values in buckets
    ]
