"""The schedule that the delta methods share: batches of facts, one after the other.

Target values z* are found at the last edit layer L, with the edits of earlier batches on the model. A
`DeltaEditor` then changes the edit layers so that the residual stream at L takes these values.

Protected facts of earlier batches keep their outputs: their rows join each later problem with zero residual.
There is one exception: an earlier fact about the same subject as a new one. The two have nearly the same key,
so they cannot have different outputs. The earlier fact takes part in the search, and both get one value with
which the model gives both answers. An editor can leave this out.
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
from moe_patch.targets.groups import context_prefixes, facts_together
from moe_patch.targets.options import TargetOptions
from moe_patch.targets.shortfall import warn_of_shortfall
from moe_patch.targets.values import Targets

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
        base: the model.
        facts: the facts to edit.
        editor: holds the deltas; it must be new and made for this base.
        targets: options of the search for target values.
        batch_size: facts solved together; None for all of them.
        earlier: facts of a stack that is on, which the editor protects like those of earlier batches.
        progress: called with stages.

    Returns:
        one result per fact: the loss of its answer in nats a token before the edit and with the target value
        in place, both measured in its batch; the margin, the steps and the ending of the search (see
        `moe_patch.targets.values.Targets`); and the ids of the facts that share its value.

    Raises:
        ConfigError: there are no facts.
        TargetError: a fact's subject or answer has no token of its own, or a layer has nothing to edit.
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
    finally:
        editor.off()
    return schedule.results[len(earlier) :]


class _Schedule:
    """The facts of the batches so far, and their results."""

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
        self._facts: list[Fact] = [*earlier]  # the stack's facts, then those of the batches so far

    def edit(self, batch: Sequence[Fact]) -> None:
        """Find the batch's target values, and let the editor change the layers for them."""
        base, prefixes = self._base, self._prefixes
        moved = self._moved_along(batch)
        members = [*batch, *(self._facts[number] for number in moved)]
        found = shared_targets(
            base, members, self._editor.last, self._targets, self._progress, prefixes=prefixes
        )
        warn_of_shortfall(members, found, self._targets, self._editor.last)
        request = EditRequest(
            facts=batch,
            moved=moved,
            earlier=len(self._facts),
            prompts=[
                encode_fact(base.reader, fact, self._targets.style, prefix=prefix, answer=False)
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
        """Numbers of protected earlier facts that share their value with a fact of this batch."""
        if not self._editor.moves_earlier:
            return []
        known = len(self._facts)
        groups = facts_together([*self._facts, *batch], self._targets.fact_token)
        return sorted(number for group in groups if group[-1] >= known for number in group if number < known)

    def _record(
        self, batch: Sequence[Fact], members: Sequence[Fact], found: Targets, moved: list[int]
    ) -> None:
        """Add a result for each fact of the batch, and update `shared_with` of earlier facts."""
        known = len(self.results)
        for i in range(len(batch)):
            self.results.append(
                {
                    "loss_before": round(found.loss_before[i], 4),
                    "loss_target": round(found.loss_after[i], 4),
                    "margin": round(found.margin[i], 4),
                    "steps": found.steps[i],
                    "ended": found.ended[i],
                }
            )
        places = [*range(known, len(self.results)), *moved]  # of each member, its place in the results
        for group in facts_together(members, self._targets.fact_token):
            for number in group:
                company: list[JsonValue] = [members[other].id for other in group if other != number]
                self.results[places[number]]["shared_with"] = company
