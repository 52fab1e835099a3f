"""The requests whose tokens a step runs, one row for each, with either of vLLM's runners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from moe_patch.bypass import BypassConfig


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens of one request in a step. They are contiguous in the batch."""

    request: str
    start: int  # index of the first of them in the batch
    count: int
    computed: int  # tokens of the request in earlier steps
    prompt: int  # tokens of the whole prompt

    def of_prompt(self) -> slice:
        """The indices in the batch of this step's prompt tokens."""
        return slice(self.start, self.start + max(0, min(self.count, self.prompt - self.computed)))

    def acting(self, config: BypassConfig) -> range:
        """The batch indices of the tokens on which the expert acts: all, or from the prompt's last on."""
        skipped = 0 if config.tokens == "all" else max(0, self.prompt - 1 - self.computed)
        return range(self.start + min(skipped, self.count), self.start + self.count)


def rows_of(
    requests: Iterable[str], counts: Mapping[str, int], computed: Sequence[int], prompts: Sequence[int]
) -> list[Row]:
    """The rows of a batch, in its order.

    Args:
        counts: by request, the number of its tokens in this step.
        computed: for each request in the batch's order, the number of its tokens in earlier steps.
        prompts: for each request in the batch's order, the length of its prompt in tokens.
    """
    rows: list[Row] = []
    start = 0
    for place, request in enumerate(requests):
        rows.append(Row(request, start, counts[request], int(computed[place]), int(prompts[place])))
        start += counts[request]
    return rows
