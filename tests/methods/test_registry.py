"""The registry knows methods by name before it imports them."""

from __future__ import annotations

import pytest

from moe_patch.errors import ConfigError
from moe_patch.methods import METHODS, Method, get_method


def test_every_name_is_that_of_its_method() -> None:
    assert [method.name for method in METHODS.values()] == list(METHODS)
    assert all(isinstance(method, Method) for method in METHODS.values())
    assert get_method("mote") is METHODS["mote"]
    assert len(METHODS) == len(list(METHODS))


def test_a_misspelt_method_is_told_of_the_one_that_is_close() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'moedit'.*; did you mean 'moeedit'"):
        get_method("moedit")
    assert "moedit" not in METHODS
