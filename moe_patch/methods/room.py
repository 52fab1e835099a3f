"""How much room facts have beside what is protected: the share of their keys that projection leaves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor

from moe_patch.data.facts import Fact
from moe_patch.patch.rows import Rows, row_energy
from moe_patch.stack.untaken import TIGHT

logger = logging.getLogger(__name__)


class Room:
    """What projection left of the facts' keys, by layer and in the order in which facts are edited."""

    def __init__(self) -> None:
        self._whole: dict[int, list[Tensor]] = {}  # by layer and batch, (T,) fp64
        self._left: dict[int, list[Tensor]] = {}

    def measure(self, layer: int, keys: Rows, projected: Rows, facts: Sequence[Fact]) -> None:
        """Take one batch's rows at a layer, before and after projection. Facts without room are named."""
        whole, left = row_energy(keys), row_energy(projected)
        self._whole.setdefault(layer, []).append(whole)
        self._left.setdefault(layer, []).append(left)
        share = _share(left, whole).tolist()
        tight = [fact.id for fact, some in zip(facts, share, strict=True) if 0.0 < some < TIGHT]
        if tight:
            logger.warning(
                "layer %d: preserved text uses nearly all directions of the keys of these facts (less than "
                "%g%% is left), so their edits are large or do not take: %s; protect less "
                "(a lower --set energy=), or edit other layers",
                layer,
                100 * TIGHT,
                ", ".join(tight),
            )

    def of_facts(self) -> list[float]:
        """The share of each fact's key energy, over all layers, that was left; empty without projection.

        It is ||k~||^2 / ||k||^2 with the keys weighted by their gates.
        """
        if not self._whole:
            return []
        whole = torch.stack([torch.cat(parts) for parts in self._whole.values()]).sum(0)  # (T,)
        left = torch.stack([torch.cat(parts) for parts in self._left.values()]).sum(0)
        return [round(share, 4) for share in _share(left, whole).tolist()]

    def of_layer(self, layer: int) -> dict[str, JsonValue]:
        """A layer's smallest and median share over the facts, for a report."""
        if layer not in self._whole:
            return {}
        share = _share(torch.cat(self._left[layer]), torch.cat(self._whole[layer]))  # (T,)
        return {"room_min": round(float(share.min()), 4), "room_median": round(float(share.median()), 4)}


def with_room(results: Sequence[Mapping[str, JsonValue]], room: Room) -> list[dict[str, JsonValue]]:
    """The facts' results, each with the fact's `room` if there was a projection."""
    shares = room.of_facts()
    if not shares:
        return [dict(result) for result in results]
    return [{**result, "room": share} for result, share in zip(results, shares, strict=True)]


def _share(left: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0.0, left / whole.clamp_min(1e-300), 0.0)
