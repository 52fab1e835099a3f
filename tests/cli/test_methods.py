"""`moe-patch methods`: the registry, as a table and as data."""

from __future__ import annotations

import json

from moe_patch.methods import METHODS
from tests.cli.conftest import Run


def test_every_method_is_listed_with_what_it_says_of_itself(run: Run) -> None:
    listed = {one["method"]: one for one in json.loads(run("methods", "--json").stdout)["methods"]}
    assert listed.keys() == METHODS.keys()
    for name, method in METHODS.items():
        assert listed[name]["paper"] == method.reference_url()
        assert listed[name]["kind"] == method.kind
        assert listed[name]["changes"] == method.changes
        assert listed[name]["rival"] is method.rival


def test_the_table_has_a_row_for_every_method(run: Run) -> None:
    shown = run("methods").stdout
    assert all(f" {name} " in shown and method.reference_url() in shown for name, method in METHODS.items())
