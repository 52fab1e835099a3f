"""Building on top of a stack of patches whose facts must keep their answers.

The stack is on while target values are searched and keys are measured. Its facts are treated as an earlier
batch of the same build: their rows, which the patches hold, join every problem with a residual of zero. The
corpus that the stack was built with is not needed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from moe_patch.data.facts import Fact
from moe_patch.patch import Patch
from moe_patch.patch.rows import Rows, select_rows
from moe_patch.solve.delta_algebra import delta_response
from moe_patch.stack.foundation import KEY, Foundation
from moe_patch.stack.layers import fact_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class EarlierEdits:
    """A stack to build on."""

    patch: Patch  # one patch that equals the stack
    patches: tuple[str, ...]  # hashes of the stack's patches, the lowest first

    def facts(self, new: Sequence[Fact]) -> list[Fact]:
        """The stack's facts that must keep their answers: all but those that a new fact replaces."""
        return [self.patch.facts[number] for number in self._staying(new)]

    def rows(self, layers: Sequence[int], new: Sequence[Fact]) -> dict[int, Rows]:
        """The rows of these facts in each edit layer; no rows in a layer that the stack does not edit.

        Raises:
            PatchError: the stack does not hold the rows of its facts.
        """
        staying = torch.tensor(self._staying(new), dtype=torch.int64)
        found = {}
        for layer in layers:
            if layer in self.patch.layers:
                found[layer] = select_rows(fact_rows(self.patch, layer), staying)
                continue
            logger.warning(
                "layer %d: the stack does not edit this layer and has no rows there, so its facts are not "
                "protected from what the new patch adds at this layer",
                layer,
            )
            width = next(iter(self.patch.layers.values())).rows.value.shape[1]
            none = torch.zeros(0, dtype=torch.int64)
            found[layer] = Rows(torch.zeros(0, width), none, none, len(staying))
        return found

    def finish(self, built: Patch) -> Patch:
        """The built patch with residuals relative to the bare base, and a record of the stack below."""
        layers = dict(built.layers)
        for layer, delta in built.layers.items():
            if layer in self.patch.layers and delta.residual is not None:
                under = self.patch.layers[layer]
                already = delta_response(under, delta.fact_rows).float()  # (T, d_m)
                layers[layer] = replace(delta, residual=delta.residual + already)
        staying = len(self._staying(built.facts))
        foundation = Foundation(
            patches=list(self.patches), protected=dict.fromkeys(map(str, sorted(layers)), staying)
        )
        return replace(
            built,
            layers=layers,
            hyperparameters=built.hyperparameters | {KEY: foundation.to_json()},
            parents=self.patches,
        )

    def _staying(self, new: Sequence[Fact]) -> list[int]:
        answered = {fact.question for fact in new}
        return [number for number, fact in enumerate(self.patch.facts) if fact.question not in answered]
