"""A guard for passes whose logits are not seen here, such as those inside a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from moe_patch.base.model import Base
from moe_patch.solve.finite import check_scores, tokens_text


@contextmanager
def finite_logits(base: Base) -> Iterator[None]:
    """Inside the block, a pass whose last token's logits mean nothing ends with an error.

    Raises:
        NumericalError: the logits hold NaN or +inf.
    """

    def check(_model: nn.Module, _arguments: Any, named: dict[str, Any], output: Any) -> None:
        def place(row: int) -> str:
            return f"after {tokens_text(base.tokenizer, named['input_ids'][row])}"

        check_scores(output.logits[:, -1], "the logits", place)

    hook = base.model.register_forward_hook(check, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
