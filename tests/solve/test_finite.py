"""NaN and infinities end with an error that names what, where and what to do."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe_patch.errors import NumericalError
from moe_patch.solve.finite import check_finite, check_scores

BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_the_first_row_with_a_number_that_means_nothing_is_named(
    rows: int, width: int, data: st.DataObject
) -> None:
    values = torch.randn(rows, width)
    check_finite(values, "numbers")
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, width - 1))
    values[row, column] = data.draw(BAD)
    with pytest.raises(NumericalError, match=rf"^numbers of row {row} are (NaN|infinite): open the model"):
        check_finite(values, "numbers", lambda i: f"of row {i}")


@given(BAD)
def test_a_single_number_is_checked_as_well(value: float) -> None:
    check_finite(torch.tensor(1.0), "the loss")
    with pytest.raises(NumericalError, match=r"the loss at step 3 are .*: train more slowly"):
        check_finite(torch.tensor(value), "the loss", "at step 3", do="train more slowly")


def test_scores_may_rule_some_choices_out_but_not_all() -> None:
    scores = torch.tensor([[0.0, -math.inf], [-math.inf, 2.0]])
    check_scores(scores, "the logits")
    for worse in (
        torch.full((1, 2), -math.inf),
        torch.tensor([[0.0, math.nan]]),
        torch.tensor([[math.inf, 0.0]]),
    ):
        with pytest.raises(NumericalError, match="the logits of row 2 are"):
            check_scores(torch.cat([scores, worse]), "the logits", lambda i: f"of row {i}")
