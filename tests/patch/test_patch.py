"""A patch in memory: its rows, and what is recorded with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from packaging.version import Version

from moe_patch.errors import SolveError
from moe_patch.patch import Patch
from tests.patch.patches import fingerprint, generator, layer_delta, with_left_per_row


def test_a_layer_knows_the_rows_of_its_facts() -> None:
    shared = layer_delta(3, generator())
    per_row = with_left_per_row(shared, generator())
    for rows in (shared.fact_rows, per_row.fact_rows):
        assert torch.equal(rows.value, shared.rows.value)
        assert torch.equal(rows.fact, shared.rows.fact)
        assert rows.num_facts == 3
    assert shared.shares_rows
    assert not per_row.shares_rows
    assert shared.experts() == per_row.experts() == sorted(set(shared.rows.expert.tolist()))


def test_rows_must_be_numbered_by_the_left_factors() -> None:
    delta = layer_delta(3, generator())
    with pytest.raises(SolveError, match="6 left factors needs rows that count as many"):
        replace(delta, left=torch.cat([delta.left, delta.left]))


def unstamped() -> Patch:
    """A patch that leaves tools and time to their defaults."""
    return Patch("delta", "moeedit", {}, fingerprint(1), (), (), {1: layer_delta(0, generator())})


def test_created_follows_the_source_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert unstamped().created == "1970-01-01T00:00:00+00:00"
    assert unstamped().hash == unstamped().hash


def test_tool_versions_are_recorded() -> None:
    assert Version(unstamped().tools["torch"]).public == Version(torch.__version__).public
    assert {"moe-patch", "python", "transformers"} < unstamped().tools.keys()
