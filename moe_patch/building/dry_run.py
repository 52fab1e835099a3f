"""A build's plan with everything resolved, without opening the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_patch.base.model import Base
from moe_patch.building.edits import notes_on, read_edits
from moe_patch.building.job import BuildRequest, Tell
from moe_patch.data.facts import Fact
from moe_patch.errors import ConfigError
from moe_patch.methods import get_method
from moe_patch.planning import Plan, Resources, make_plan, outline_model, plan_job
from moe_patch.tuning import Choice, settle


@dataclass(frozen=True, slots=True, eq=False)
class DryRun:
    """What a build would do."""

    facts: Sequence[Fact]
    choice: Choice  # as far as it goes without the model's weights
    plan: Plan

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"facts": len(self.facts), "options": self.choice.to_json(), "plan": self.plan.to_json()}


def plan_build(request: BuildRequest, tell: Tell | None = None) -> DryRun:
    """Read the facts, resolve the options and plan the build. The model's config is read, and no weights.

    Args:
        request: what would be built.
        tell: called with what the user should know of the facts.

    Raises:
        FactError: the facts cannot be used.
        ConfigError: there is no such method or recipe, an option is unknown or its value is not valid, or the
            method cannot be planned.
        ModelError: the model has no config, or cannot be edited.
    """
    method = get_method(request.method)
    facts = request.edits
    if isinstance(facts, Path):
        read = read_edits(facts, schema=request.schema, skip_invalid=request.skip_invalid)
        for note in notes_on(read, facts):
            if tell is not None:
                tell(note)
        facts = read
    if isinstance(request.model, Base):
        raise ConfigError("a plan needs a model's name or folder, not an open model")
    outline = outline_model(request.model, request.dtype)
    choice = settle(outline.base, method, given=request.given, recipe=request.recipe)
    job = plan_job(outline, method, choice.options, facts)
    return DryRun(facts, choice, make_plan(outline, job, Resources.of()))
