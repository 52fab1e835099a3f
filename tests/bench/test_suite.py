"""Suites as data: what is refused, what ships, and what a file means."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from moe_patch.bench.suite import Arm, load_suite, read_suite, shipped_suites
from moe_patch.errors import ConfigError
from moe_patch.methods import METHODS

NAMED = {
    "rivals",
    *("moeedit-table1", "moeedit-table2", "moeedit-fig3", "moeedit-fig4"),
    *(f"mote-table{number}" for number in range(1, 7)),
    *("memoe-table1", "memoe-table2", "memoe-table3", "memoe-fig1", "memoe-fig4", "memoe-fig5"),
}


def write(folder: Path, **fields: object) -> Path:
    path = folder / "mine.yaml"
    whole = {"name": "mine", "title": "Mine", "arms": [{"method": "moeedit"}]} | fields
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


def test_the_named_suites_ship() -> None:
    assert set(shipped_suites()) >= NAMED


@pytest.mark.parametrize("name", sorted(shipped_suites()))
def test_a_shipped_suite_is_one_and_says_where_it_comes_from(name: str) -> None:
    suite = read_suite(shipped_suites()[name])
    assert suite.name == name
    assert suite.about
    assert name.startswith("rivals") or suite.source is not None
    assert load_suite(name) == suite  # its methods and options exist


def test_all_arms_are_those_of_the_registry() -> None:
    assert [arm.method for arm in load_suite("rivals").all_arms] == list(METHODS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arm": []}, r"mine.yaml is not a suite: arm: no such field"),
        ({"arms": []}, r"arms"),
        ({"arms": [{"method": "moeedit", "option": {}}]}, "no such field"),
        ({"arms": [{"method": "nothing"}]}, "unknown method 'nothing': expected one of "),
        ({"arms": [{"method": "moeedit", "options": {"rigde": 1}}]}, "unknown option 'rigde': expected"),
        ({"arms": [{"method": "moeedit", "sweep": {"ridge": [0.1, -1]}}]}, "ridge: .* greater than 0"),
        ({"arms": [{"method": "moeedit", "sweep": {"ridge": []}}]}, "sweep"),
        ({"arms": [{"method": "moeedit", "sweep": {"ridge": "each"}}]}, "is for layers, not for 'ridge'"),
        ({"options": {"nowhere": 1}}, "no method of the suite has an option 'nowhere'"),
        ({"options": {"ridge": "much"}}, "ridge"),
        ({"modes": ["all"]}, "modes"),
        ({"batch_sizes": [0]}, "batch_sizes"),
        ({"seeds": [1, 1]}, "seeds: expected different values"),
        ({"facts": ["50"]}, "facts"),
        ({"borrow": {"method": "nothing", "options": ["layers"]}}, "unknown method 'nothing'"),
    ],
)
def test_mistakes_are_named(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(write(tmp_path, **fields))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown suite 'nothing': expected a .yaml file or one of .*rivals"
    ):
        load_suite("nothing")


def test_what_is_no_yaml_or_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the suite"):
        load_suite(tmp_path / "gone.yaml")
    (tmp_path / "odd.yaml").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not a suite"):
        load_suite(tmp_path / "odd.yaml")


def test_methods_are_taken_as_the_suite_has_them(tmp_path: Path) -> None:
    arms = [
        {"method": "ft", "options": {"learning_rate": 0.5}},
        {"method": "moeedit", "name": "low", "options": {"ridge": 0.1}},
        {"method": "moeedit", "name": "high", "options": {"ridge": 1.0}},
    ]
    suite = read_suite(write(tmp_path, arms=arms))
    found = suite.arms_with(["moeedit", "mote", "ft"])
    assert [(arm.method, arm.name, arm.options) for arm in found] == [
        ("moeedit", "low", {"ridge": 0.1}),
        ("moeedit", "high", {"ridge": 1.0}),
        ("mote", "", {}),
        ("ft", "", {"learning_rate": 0.5}),
    ]
    everything = read_suite(write(tmp_path, arms="all"))
    assert everything.arms_with(["grace"]) == [Arm(method="grace")]
