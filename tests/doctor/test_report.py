"""Checks against stored values, and the messages of failed checks."""

from __future__ import annotations

import json
import math

import pytest

from moe_patch.doctor.reference import Expected, SelfTestReference, stored_reference
from moe_patch.doctor.report import SelfTestCheck, SelfTestResult


@pytest.mark.parametrize(
    ("found", "passed"),
    [([1.0, 2.0], True), ([1.05, 1.95], True), ([1.0, 2.2], False), ([math.nan, 2.0], False)],
)
def test_figures_may_be_off_by_the_tolerance(found: list[float], passed: bool) -> None:
    assert SelfTestCheck("figures", found, [1.0, 2.0], 0.1).passed is passed


def test_texts_have_to_be_the_same() -> None:
    assert SelfTestCheck("texts", ["a", "b"], ["a", "b"], 0.0).passed
    assert not SelfTestCheck("texts", ["a", "c"], ["a", "b"], 0.0).passed


def test_a_failure_says_what_was_found_and_expected() -> None:
    checks = (
        SelfTestCheck("norm", [1.5], [1.0], 0.1),
        SelfTestCheck("answers", ["Euro"], ["Yen"], 0.0),
        SelfTestCheck("sound", [0.0], [0.0], 0.0),
    )
    assert SelfTestResult("cpu", 1.0, checks).failures == [
        "norm: found 1.5, expected 1 within 0.1",
        "answers: found 'Euro', expected 'Yen'",
    ]
    assert SelfTestResult("cpu", 1.0, (), "RuntimeError: no memory").failures == ["RuntimeError: no memory"]
    assert not SelfTestResult("cpu", 1.0, (), "RuntimeError: no memory").passed


def test_json_has_no_nan() -> None:
    test = SelfTestResult("cpu", 1.0, (SelfTestCheck("norm", [math.nan], [1.0], 0.1),))
    written = json.loads(json.dumps(test.to_json(), allow_nan=False))
    assert written["checks"][0]["found"] == ["nan"]
    assert not written["passed"]


def test_every_stored_value_is_compared() -> None:
    reference = SelfTestReference(
        made_with={},
        checks={
            "a": Expected(values=["x"], tolerance=0.0),
            "b": Expected(values=[1.0], tolerance=0.5),
        },
    )
    assert [check.passed for check in reference.compare({"a": ["x"], "b": [2.0]})] == [True, False]


def test_the_stored_answers_are_those_of_the_facts() -> None:
    from moe_patch.doctor.self_test import _facts

    stored = stored_reference().checks
    wanted = [fact.target_new for fact in _facts()]
    assert stored["answers, merged"].values == stored["answers, hooked"].values == wanted
    assert stored["answers of the base"].values != wanted
    assert stored["weights that did not come back"].values == [0.0]
    assert stored["logits that did not come back"].values == [0.0]
