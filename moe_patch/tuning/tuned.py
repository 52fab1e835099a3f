"""What came of a tuning: every trial, the check of what won, and the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from moe_patch.methods.recipes import Recipe
from moe_patch.tuning.choice import Choice
from moe_patch.tuning.score import Gain, Score, gain
from moe_patch.tuning.search import Trial
from moe_patch.tuning.space import Settings, Space


@dataclass(frozen=True, slots=True)
class Check:
    """The settings that won the search against the defaults, on facts that neither was searched on."""

    default: Score
    best: Score

    @property
    def gain(self) -> Gain:
        """Of the settings over the defaults."""
        return gain(self.best, self.default)


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of a tuning."""

    recipe: Recipe
    space: Space
    start: Choice  # what a build without a recipe would take
    given: Mapping[str, Any]  # options that were not searched
    trials: tuple[Trial, ...]  # in the order in which they were run
    best: Trial  # the one that won the search
    check: Check | None  # None if no time was left for it
    finished: bool  # whether the search came to its end, rather than to that of its budget
    seconds: float

    @property
    def taken(self) -> bool:
        """Whether the recipe has the settings that won the search, rather than the defaults."""
        return self.check is not None and self.check.gain.is_clear

    @property
    def settings(self) -> Settings:
        """The recipe's options by dotted names, but for those that were given."""
        return self.space.settings(self.best.point if self.taken else self.space.start)

    @property
    def score(self) -> Score | None:
        """The recipe's score on the facts that were kept for the check."""
        if self.check is None:
            return None
        return self.check.best if self.taken else self.check.default

    def to_json(self) -> dict[str, JsonValue]:
        """All of it as plain data."""
        check: JsonValue = None
        if self.check is not None:
            found = self.check.gain
            check = {
                "default": self.check.default.to_json(),
                "best": self.check.best.to_json(),
                "gain": found.mean,
                "noise": found.noise,
            }
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "taken": self.taken,
            "finished": self.finished,
            "seconds": self.seconds,
            "changes": self.space.changes(self.best.point),
            "check": check,
            "trials": [trial.to_json(self.space) for trial in self.trials],
        }
