"""The decision of each request, by request id: made once, kept while it decodes, dropped when it ends.

A prompt may take several steps. The block's inputs at its tokens are kept until the last token has come, and
then freed. They are d_m numbers a token, for at most as many tokens as vLLM's cache of keys and values holds.
For a request that is decided, one number is kept, or the gates of all experts if the bypass merges them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from moe_patch.bypass import Bypass
from moe_patch.errors import BypassError
from moe_patch_serving.bypass.rows import Row

Decision = int | Tensor
"""The number of an expert or LEAVE_ALONE, or the gates (n,) of the experts."""


class Decisions:
    """The decisions of one bypass, and the states of incomplete prompts."""

    def __init__(self, bypass: Bypass) -> None:
        self._bypass = bypass
        self._routes: dict[str, Decision] = {}
        self._states: dict[str, list[Tensor]] = {}  # (tokens, d_m) of each step so far

    def route(self, row: Row, x: Tensor) -> Decision | None:
        """The decision for a row's request; None while its prompt is incomplete.

        A request that vLLM preempts and runs again from its first token keeps its decision.

        Args:
            x: (N, d_m), the block's inputs in this step.

        Raises:
            BypassError: earlier tokens of the prompt were not run here.
        """
        route = self._routes.get(row.request)
        return self._decide(row, x) if route is None else route

    def drop(self, requests: Iterable[str]) -> None:
        """Forget requests that have ended. Unknown ones are ignored."""
        for request in requests:
            self._routes.pop(request, None)
            self._states.pop(request, None)

    @property
    def requests(self) -> int:
        """The number of requests for which data is kept."""
        return len(self._routes.keys() | self._states.keys())

    @property
    def bytes_kept(self) -> int:
        """The size of the states of incomplete prompts."""
        return sum(part.nbytes for parts in self._states.values() for part in parts)

    def _decide(self, row: Row, x: Tensor) -> Decision | None:
        parts = (
            self._states.get(row.request, []) if row.computed else []
        )  # empty if it starts, or starts again
        if sum(len(part) for part in parts) != row.computed:
            raise BypassError(
                f"request {row.request} came with {row.computed} tokens that the bypass has not seen: its "
                "prompt was not run here from the first token on, so no expert can be chosen for it"
            )
        seen = x[row.of_prompt()]  # (tokens of the prompt in this step, d_m)
        if row.computed + len(seen) < row.prompt:
            self._states[row.request] = [*parts, seen.clone()]  # `x` is a buffer that the block may reuse
            return None
        states = torch.cat([*parts, seen])[None]  # (1, S, d_m)
        whole = torch.ones(states.shape[:2], dtype=torch.bool, device=x.device)
        (decided,) = self._bypass.route(states, whole)
        route: Decision = decided if decided.ndim else int(decided)
        self._states.pop(row.request, None)
        self._routes[row.request] = route
        return route
