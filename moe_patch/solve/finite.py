"""The check that numbers mean something: NaN and infinities end a command where they first show.

Half precision overflows, weights are damaged, learning rates are too high. Unchecked, the numbers that follow
look like results: NaN is never larger than another number, so a comparison counts it as a lost one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from moe_patch.errors import NumericalError

_WHAT_TO_DO = (
    "open the model in another type, such as --dtype float32 (float16 overflows beyond 65,504), and if it is "
    "in float32, look for NaN in its weights"
)


def check_finite(
    values: Tensor, what: str, place: str | Callable[[int], str] = "", *, do: str = _WHAT_TO_DO
) -> None:
    """Check that no number is NaN or infinite.

    Args:
        values: (n, ...) numbers, or a single one.
        what: what they are, in the plural: "the logits".
        place: where they are from, or a function that says it of row `i` and is called only if it is needed.
        do: what to do about it.

    Raises:
        NumericalError: one is not. The message names the first such row.
    """
    finite = values.isfinite()
    if bool(finite.all()):
        return
    row = int(finite.logical_not().nonzero()[0][0]) if values.dim() else 0
    where = place if isinstance(place, str) else place(row)
    found = "NaN" if bool(values.isnan().any()) else "infinite"
    raise NumericalError(f"{what} {where}".rstrip() + f" are {found}: {do}")


def check_scores(scores: Tensor, what: str, place: str | Callable[[int], str] = "") -> None:
    """Check scores (n, V) from which the largest is chosen. Some may be -inf, as what a model never says is.

    Raises:
        NumericalError: a row has NaN or +inf, or nothing above -inf.
    """
    check_finite(scores.amax(-1), what, place)


def tokens_text(tokenizer: Any, ids: Tensor | list[int] | tuple[int, ...]) -> str:
    """A prompt as a message names it: its text in quotation marks, cut if it is long."""
    text = str(tokenizer.decode(torch.as_tensor(ids).tolist(), skip_special_tokens=True))
    return repr(text if len(text) <= 80 else f"...{text[-77:]}")
