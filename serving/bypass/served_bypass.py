"""A bypass beside one block of a served model, within vLLM's batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from moe_patch.bypass import LEAVE_ALONE, Bypass
from moe_patch.errors import BypassError
from moe_patch_serving.bypass.decisions import Decision, Decisions
from moe_patch_serving.bypass.rows import Row

Rows = Callable[[], Iterable[Row]]


class ServedBypass:
    """A bypass with its requests' decisions. Outside of a step, such as in warm-up, it adds nothing."""

    def __init__(self, bypass: Bypass, patch: str) -> None:
        """`patch` is the hash of the bypass's patch."""
        self.patch = patch
        self.config = bypass.config
        self.decisions = Decisions(bypass)
        self._bypass = bypass
        self._rows: Rows = tuple

    @contextmanager
    def step(self, rows: Rows) -> Iterator[None]:
        """A context in which the batch of `rows` is run. `rows` is called when the block is reached."""
        self.begin(rows)
        try:
            yield
        finally:
            self._rows = tuple

    def begin(self, rows: Rows) -> None:
        """Declare that the batch of `rows` runs next."""
        self._rows = rows

    def state(self) -> dict[str, Any]:
        """The data kept for running requests, as JSON values; `PatchWorker` describes the entries."""
        return {
            "patch": self.patch,
            "layer": self.config.layer,
            "requests": self.decisions.requests,
            "bytes_kept": self.decisions.bytes_kept,
        }

    def __call__(self, x: Tensor) -> Tensor:
        """What to add to the block's output for its inputs (N, d_m). It has their shape, and is mostly zero.

        Raises:
            BypassError: a prompt comes in pieces, but the expert must act on all of it.
        """
        added = torch.zeros_like(x)
        alone: dict[int, list[int]] = defaultdict(list)
        merged: list[tuple[range, Tensor]] = []
        for row, route in self._decided(x):
            if isinstance(route, Tensor):
                merged.append((row.acting(self.config), route))
            elif route != LEAVE_ALONE:
                alone[route] += row.acting(self.config)
        for expert, places in alone.items():
            rows = torch.tensor(places, device=x.device)  # (m,)
            added.index_copy_(0, rows, self._bypass.expert(x.index_select(0, rows), expert))
        for acting, gates in merged:  # a slice of the batch: a request's tokens are contiguous
            part = x[acting.start : acting.stop]  # (m, d_m)
            added[acting.start : acting.stop] = self._bypass(part[None], gates[None])[0]
        return added

    def _decided(self, x: Tensor) -> Iterator[tuple[Row, Decision]]:
        """The rows of this step whose decisions are known, with them."""
        for row in self._rows():
            route = self.decisions.route(row, x)
            if route is None and self.config.tokens == "all":
                raise BypassError(
                    f"the prompt of request {row.request} came in pieces, and its expert is to act on all of "
                    "it: serve without chunked prefill"
                )
            if route is not None:
                yield row, route
