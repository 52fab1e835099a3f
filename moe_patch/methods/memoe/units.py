"""The unit of what a bypass adds to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence

from moe_patch.base.model import Base
from moe_patch.bypass.config import LARGEST_FACTOR
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import PromptStyle, encode_fact
from moe_patch.solve.finite import check_finite
from moe_patch.targets.answers import Answers
from moe_patch.targets.size import coordinate_size
from moe_patch.targets.tail import WholePass

_FACTS = 32  # enough for a median


def stream_scale(base: Base, layer: int, facts: Sequence[Fact], style: PromptStyle) -> float:
    """How large a coordinate of the stream is after a layer: the median of some facts' edited tokens.

    The block's input, which the experts of a bypass read, is normed and has the same size on every model. The
    stream, to which they add, has not.

    Raises:
        NumericalError: the stream is not finite.
        TargetError: a fact's answer has no token of its own, or the layer has no single residual stream.
    """
    some = facts[:: -(-len(facts) // _FACTS)]
    prompts = [encode_fact(base.reader, fact, style) for fact in some]
    start = WholePass(base, prompts, Answers.of(prompts).reads, layer).start  # (n, d_m)
    check_finite(start, "hidden states", lambda i: f"after layer {layer} in the prompt of fact {some[i].id}")
    return min(float(coordinate_size(start).median()), LARGEST_FACTOR)
