"""Whose tokens a step runs: one row for each request, whichever of vLLM's runners says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_patch.bypass import BypassConfig


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of one request that a step runs; they lie one behind the other in the batch."""

    request: str
    start: int  # of the first of them, in the batch
    count: int
    computed: int  # tokens of the request that earlier steps have run
    prompt: int  # tokens of its prompt, wherever this step is in it

    def of_prompt(self) -> slice:
        """Where the prompt's tokens are in the batch, as far as this step runs them."""
        return slice(self.start, self.start + max(0, min(self.count, self.prompt - self.computed)))

    def acting(self, config: BypassConfig) -> range:
        """Where the tokens are on which the chosen expert acts: all, or from the prompt's last one on."""
        skipped = 0 if config.tokens == "all" else max(0, self.prompt - 1 - self.computed)
        return range(self.start + min(skipped, self.count), self.start + self.count)


def rows_of(
    requests: Iterable[str], counts: Mapping[str, int], computed: Sequence[int], prompts: Sequence[int]
) -> list[Row]:
    """The rows of a batch, in its order.

    Args:
        counts: how many tokens of each request the step runs.
        computed: how many tokens of each earlier steps have run, in the batch's order.
        prompts: how many tokens the prompt of each has, in the batch's order.
    """
    rows: list[Row] = []
    start = 0
    for place, request in enumerate(requests):
        rows.append(Row(request, start, counts[request], int(computed[place]), int(prompts[place])))
        start += counts[request]
    return rows
