"""The rows of the benchmark of additions, against the defaults and against what is published."""

from __future__ import annotations

from typing import Any

import pytest

from moe_patch.methods import get_method
from moe_patch.methods.overrides import option_names
from moe_patch.methods.published import published_options
from recipes.benchmarks.additions import ADDITIONS, OURS, SCORES, options_of, runs_of, table_of
from tests.methods.builds import facts
from tests.tiny import tiny_base

GIVEN = {"layers": [1], "batch_size": 50, "corpus": "text.txt"}
SAME = {"batch_size", "layers", "corpus"}  # in all rows
NOT_MEASURED = {"keep_weight", "corpus_tokens", "corpus_length", "residual_share", "out_moment"}
"""Published choices that change nothing on the benchmark's facts and text."""


def values(options: Any, names: set[str]) -> dict[str, Any]:
    def look_up(name: str) -> Any:
        found = options.model_dump()
        for part in name.split("."):
            found = found[part]
        return found

    return {name: look_up(name) for name in names}


@pytest.mark.parametrize("method", ADDITIONS)
def test_each_row_changes_its_options_and_no_others(method: str) -> None:
    base, names = tiny_base("qwen3_moe"), set(option_names(get_method(method).Options))
    ours, *rows, own, _ = (values(options_of(base, facts(), run, GIVEN), names) for run in runs_of(method))
    for row, changes in zip(rows, ADDITIONS[method].values(), strict=True):
        changed = {name: row[name] for name in names if row[name] != ours[name]}
        assert changed.items() <= changes.items()
        assert changed
    assert {name for name in names if own[name] != ours[name]} == {"corpus"}


@pytest.mark.parametrize("method", ADDITIONS)
def test_all_rows_together_are_as_published(method: str) -> None:
    base, names = tiny_base("qwen3_moe"), set(option_names(get_method(method).Options))
    published, _ = published_options(base, get_method(method))
    all_changes = {name: value for changes in ADDITIONS[method].values() for name, value in changes.items()}
    ours, *_, last = (values(options_of(base, facts(), run, GIVEN), names) for run in runs_of(method))
    differing = {name for name in names if last[name] != ours[name]} - SAME
    expected = {name for name in differing if name.split(".")[-1] not in NOT_MEASURED}
    assert expected <= set(all_changes)
    assert {name: last[name] for name in all_changes if name in differing} == {
        name: value for name, value in all_changes.items() if name in differing
    }
    assert published["protect_earlier"] is False


def test_an_addition_is_worth_what_a_build_without_it_lacks() -> None:
    records = [
        {"run": name, **dict.fromkeys(SCORES, 0.0), "utility": utility}
        for name, utility in ((OURS, 95.0), ("without protection", 91.5), ("as-published", 60.0))
    ]
    table = table_of("moeedit", records)
    assert list(table.columns[-1].cells) == ["", "+3.5", "+35.0"]
