"""The schedule that the delta methods share: batches of facts, one after the other.

Target values z* are found at the last edit layer L for the model as earlier batches left it. A `DeltaEditor`
then changes the edit layers so that the residual stream at L becomes what is asked.

Protected facts of earlier batches keep their outputs: their rows join each later problem with zero residual.
An earlier fact about a subject that a new one is about as well cannot stay where it is, because the two have
nearly one key. It takes part in the search for their common delta, and its output is asked to move by that
delta, to a value at which both answers are said.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from moe_patch.base.model import Base
from moe_patch.data.facts import Fact
from moe_patch.data.prompts import encode_fact
from moe_patch.errors import ConfigError
from moe_patch.methods.editors import DeltaEditor, EditRequest
from moe_patch.progress import Progress
from moe_patch.targets.cached import shared_targets
from moe_patch.targets.search import TargetOptions, Targets, context_prefixes, facts_together, target_losses

Results = list[dict[str, JsonValue]]


def run_schedule(
    base: Base,
    facts: Sequence[Fact],
    editor: DeltaEditor,
    targets: TargetOptions,
    *,
    batch_size: int | None,
    earlier: Sequence[Fact] = (),
    progress: Progress | None = None,
) -> Results:
    """Run the schedule over all facts; the base is as before when it returns or raises.

    Args:
        editor: holds the deltas; new, and of this base.
        batch_size: facts solved together; None is all of them.
        earlier: facts of a stack that is on, which the editor protects like those of earlier batches.

    Returns:
        one result per fact: its target's loss in nats a token before, with the target value in place (both in
        its own batch) and by the finished patch; the steps of the search; and the ids of the facts that share
        its change.

    Raises:
        ConfigError: there are no facts.
        TargetError: a fact cannot be tokenised as needed, or no row of a layer may be edited.
    """
    if not facts:
        raise ConfigError("there are no facts to build a patch from")
    schedule = _Schedule(base, editor, targets, earlier, progress)
    size = batch_size or len(facts)
    try:
        for start in range(0, len(facts), size):
            schedule.edit(facts[start : start + size])
            if progress is not None:
                progress("facts edited", min(start + size, len(facts)), len(facts))
        results = schedule.results[len(earlier) :]
        for result, loss in zip(results, target_losses(base, facts, targets), strict=True):
            result["loss_edited"] = round(loss, 4)
    finally:
        editor.off()
    return results


class _Schedule:
    """The facts of the batches so far, and what became of them."""

    def __init__(
        self,
        base: Base,
        editor: DeltaEditor,
        targets: TargetOptions,
        earlier: Sequence[Fact],
        progress: Progress | None,
    ) -> None:
        self.results: Results = [{} for _ in earlier]
        self._base, self._editor = base, editor
        self._targets, self._progress = targets, progress
        self._prefixes = context_prefixes(base, targets)
        self._facts: list[Fact] = [*earlier]  # and of the batches so far

    def edit(self, batch: Sequence[Fact]) -> None:
        """Find the batch's target values, and have the editor bring them about."""
        base, prefixes = self._base, self._prefixes
        moved = self._moved_along(batch)
        members = [*batch, *(self._facts[number] for number in moved)]
        found = shared_targets(
            base, members, self._editor.last, self._targets, self._progress, prefixes=prefixes
        )
        request = EditRequest(
            facts=batch,
            moved=moved,
            earlier=len(self._facts),
            prompts=[
                encode_fact(base.tokenizer, fact, self._targets.style, prefix=prefix, answer=False)
                for fact in members
                for prefix in prefixes
            ],
            contexts=len(prefixes),
            value=found.value.cpu(),
            prompts_per_pass=self._targets.facts_per_pass * len(prefixes),
            progress=self._progress,
        )
        self._editor.edit(request)
        self._record(batch, members, found, moved)
        self._facts += batch

    def _moved_along(self, batch: Sequence[Fact]) -> list[int]:
        """Protected facts of earlier batches that share their change with a fact of this one."""
        if not self._editor.protect_earlier:
            return []
        known = len(self._facts)
        groups = facts_together([*self._facts, *batch], self._targets.fact_token)
        return sorted(number for group in groups if group[-1] >= known for number in group if number < known)

    def _record(
        self, batch: Sequence[Fact], members: Sequence[Fact], found: Targets, moved: list[int]
    ) -> None:
        """One result for each fact of the batch, and the new company of those that moved along."""
        known = len(self.results)
        for i in range(len(batch)):
            self.results.append(
                {
                    "loss_before": round(found.loss_before[i], 4),
                    "loss_target": round(found.loss_after[i], 4),
                    "steps": found.steps[i],
                }
            )
        places = [*range(known, len(self.results)), *moved]  # of the members among the results
        for group in facts_together(members, self._targets.fact_token):
            for number in group:
                company: list[JsonValue] = [members[other].id for other in group if other != number]
                self.results[places[number]]["shared_with"] = company
