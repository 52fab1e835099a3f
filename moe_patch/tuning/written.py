"""The recipe of a tuning as a file that people read, change and share."""

from __future__ import annotations

from pathlib import Path

from moe_patch.io.files import write_text
from moe_patch.io.wording import counted
from moe_patch.methods.corpus_option import map_sources
from moe_patch.methods.recipes import Recipe, recipe_text
from moe_patch.tuning.score import Score
from moe_patch.tuning.tuned import Tuned


def write_recipe(tuned: Tuned, path: Path) -> None:
    """Write the recipe with its scores as comments, the whole file or nothing.

    Raises:
        OutputError: the operating system refuses to write.
    """
    lines = [f"# {line}".rstrip() for line in _comments(tuned)]
    write_text(path, "\n".join([*lines, recipe_text(_beside(tuned.recipe, path))]))


def score_row(name: str, score: Score) -> tuple[str, ...]:
    """A row of figures: value, efficacy, generalization, specificity in points, and KL in nats."""
    points = (score.value, score.efficacy, score.generalization, score.specificity)
    return (name, *("" if each is None else f"{each:.1f}" for each in points), f"{score.kl:.4f}")


COLUMNS = ("", "value", "efficacy", "generalization", "specificity", "KL")
"""The headings of `score_row`."""


def outcome(tuned: Tuned) -> str:
    """In a sentence, what the recipe holds and why."""
    if tuned.check is None:
        return "No time was left to check a result, so the recipe has the defaults."
    found = tuned.check.gain
    if tuned.best.point == tuned.space.start:
        return "Nothing was clearly better than the defaults, so the recipe has these."
    said = f"{found.mean:+.1f} points, with a standard error of {found.noise:.1f}"
    if tuned.taken:
        return f"The recipe is better than the defaults on facts that it was not searched on: {said}."
    return f"What won the search is not clearly better on other facts: {said}. The recipe has the defaults."


def _comments(tuned: Tuned) -> list[str]:
    facts = tuned.trials[0].facts
    trials = f"{counted(len(tuned.trials), 'trial')} of at most {counted(facts, 'fact')}"
    ended = "" if tuned.finished else ", when its time was spent"
    took = f"{trials} and {tuned.seconds / 60:.1f} minutes{ended}"
    lines = [f"Found by `moe-patch tune` in {took}.", outcome(tuned)]
    if tuned.check is not None:
        rows = [COLUMNS, score_row("defaults", tuned.check.default)]
        if tuned.best.point != tuned.space.start:
            rows.append(score_row("best found", tuned.check.best))
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines += ["", f"On {counted(len(tuned.check.default.facts), 'fact')} that were kept for the check:"]
        lines += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return lines


def _beside(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the paths of a corpus relative to the file, as it is read from there."""
    methods = {}
    for method, options in recipe.methods.items():
        methods[method] = dict(options)
        if options.get("corpus") is not None:
            methods[method]["corpus"] = map_sources(
                options["corpus"], lambda source: source.to_folder(path.parent)
            )
    return recipe.model_copy(update={"methods": methods})
