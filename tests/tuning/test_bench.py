"""Trial edits: scored as builds would be, sharing what they can, and taken off."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moe_patch.apply import apply
from moe_patch.base.occupied import find_occupant
from moe_patch.evaluation.drift import measure_drift
from moe_patch.evaluation.scoring import score_answers
from moe_patch.methods import get_method
from moe_patch.methods.delta import DeltaMethod
from moe_patch.methods.schedule import run_schedule
from moe_patch.tuning import bench as bench_module
from moe_patch.tuning.bench import Bench
from tests.methods.builds import corpus, snapshot, unchanged
from tests.taught import taught_base
from tests.tuning.taught_calibration import GIVEN, probe, taught_calibration

SETTINGS: dict[str, Any] = {"layers": [0], "ridge": 0.01}


def moeedit() -> DeltaMethod[Any]:
    method = get_method("moeedit")
    assert isinstance(method, DeltaMethod)
    return method


def bench(given: dict[str, Any] | None = None) -> Bench:
    return Bench(taught_base(), moeedit(), GIVEN if given is None else given, taught_calibration().texts)


def test_a_trial_scores_what_a_build_would() -> None:
    base, probes = taught_base(), taught_calibration().search
    before = snapshot(base)
    score = bench().score(SETTINGS, probes)
    assert unchanged(base, before)
    assert find_occupant(base) is None
    patch = moeedit().build(base, [each.fact for each in probes], bench().options(SETTINGS))
    with apply(base, patch, mode="hook"):
        asked = [(each.fact.text, each.fact.target_new) for each in probes]
        said = [one.exact for one in score_answers(base, asked)]
    assert [fact.efficacy == 1.0 for fact in score.facts] == said
    assert any(said)
    sequences = base.reader.sequences(list(taught_calibration().texts), 512)
    assert score.kl == pytest.approx(measure_drift(base, patch, sequences).divergence, rel=1e-4)


def test_an_answer_counts_half_for_winning_and_half_for_being_said() -> None:
    weak = {**GIVEN, "targets.steps": 1}  # a search of one step changes nothing
    found = bench(weak).score(SETTINGS, taught_calibration().search)
    assert [fact.efficacy for fact in found.facts] == [0.0] * 4
    assert [fact.specificity for fact in found.facts] == [1.0] * 4
    assert found.kl == pytest.approx(0.0, abs=1e-6)


def test_what_a_probe_lacks_is_not_scored() -> None:
    bare = replace(probe("Ann"), paraphrases=(), neighbours=())
    (fact,) = bench().score(SETTINGS, [bare]).facts
    assert (fact.generalization, fact.specificity) == (None, None)


def test_moments_and_null_spaces_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for owner, name in ((bench_module, "preserve"), (DeltaMethod, "projections")):
        original = getattr(owner, name)

        def counted(*arguments: Any, original: Any = original, name: str = name, **named: Any) -> Any:
            calls.append(name)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, counted)
    given = {"corpus": corpus(tmp_path), "unseen": "edit", "min_tokens": 1, "targets.steps": 2}
    tried, probes = bench(given), taught_calibration().search
    for ridge in (0.1, 1.0):
        tried.score({"layers": [0], "energy": 0.5, "ridge": ridge}, probes)
    assert calls == ["preserve", "projections"]
    tried.score({"layers": [0], "energy": 0.9}, probes)
    assert calls[2:] == ["projections"]
    tried.score({"layers": [0, 1], "energy": 0.5}, probes)
    assert calls[3:] == ["preserve", "projections"]


def test_trials_repeat_to_the_bit() -> None:
    first, second = (bench().score(SETTINGS, taught_calibration().search) for _ in range(2))
    assert first == second
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("level", "warned"), [(logging.WARNING, False), (logging.INFO, True)])
def test_warnings_of_facts_that_nobody_edits_are_not_logged(
    level: int, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warning(*arguments: Any, **options: Any) -> Any:
        logging.getLogger("moe_patch.methods.schedule").warning("a fact did not take")
        return run_schedule(*arguments, **options)

    monkeypatch.setattr(bench_module, "run_schedule", warning)
    logging.getLogger("moe_patch").setLevel(level)
    bench().score(SETTINGS, [probe("Ann")])
    assert ("a fact did not take" in caplog.text) is warned
    assert logging.getLogger("moe_patch.methods").level == logging.NOTSET
