"""Several evaluations that share what the base says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_patch.base.model import Base
from moe_patch.evaluation import BaselineMemory, Setting, evaluate
from moe_patch.patch import Patch
from tests.evaluation.test_evaluate import FACTS, base, patch  # noqa: F401  fixtures
from tests.tiny import tiny_patch


class Stages(list[str]):
    """A progress function that remembers the stages."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.append(stage)

    def of_base(self) -> bool:
        return any(stage.startswith("base") for stage in self)


def test_patches_of_the_same_facts_measure_the_base_once(base: Base, patch: Patch) -> None:  # noqa: F811
    other = tiny_patch(base, [1], scale=2.0)
    memory, first, second = BaselineMemory(), Stages(), Stages()
    asked = {"generate": True, "samples": True, "memory": memory}
    one = evaluate(base, patch, setting=Setting(progress=first), **asked)
    two = evaluate(base, other, setting=Setting(progress=second), **asked)
    assert first.of_base()
    assert not second.of_base()
    assert one == evaluate(base, patch, generate=True, samples=True)
    assert two == evaluate(base, other, generate=True, samples=True)


@pytest.mark.parametrize(
    "changed",
    [{"facts": FACTS[:2]}, {"free": False}, {"routing": False}, {"samples": True}, {"rule": "zsre"}],
    ids=str,
)
def test_another_question_measures_it_again(base: Base, patch: Patch, changed) -> None:  # noqa: F811
    memory, stages = BaselineMemory(), Stages()
    evaluate(base, patch, FACTS, memory=memory)
    evaluate(base, patch, **{"facts": FACTS, "memory": memory, "setting": Setting(progress=stages)} | changed)
    assert stages.of_base()


def test_another_model_or_a_template_measures_it_again(base: Base, patch: Patch) -> None:  # noqa: F811
    memory, stages = BaselineMemory(), Stages()
    evaluate(base, patch, memory=memory, free=False)
    evaluate(replace(base), patch, memory=memory, free=False, setting=Setting(progress=stages))
    assert stages.of_base()
