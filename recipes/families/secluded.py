"""How a model of any architecture is run with isolated subjects: its lower layers on pieces of each row.

A subject is a row of its own there, and what is around it another; so it sees itself alone, and nothing sees
it, whether a layer mixes tokens by attention or by a state. The upper layers see the whole row again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recipes.training.sentences import SentenceBatch
from recipes.training.trainer import Schedule, Trainer
from recipes.training.world import Triple


class Skipped(nn.Module):
    """Stands where a layer is left out."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """The stream as it came."""
        return hidden_states


@contextmanager
def layers_only(body: Any, first: int, end: int) -> Iterator[None]:
    """Run only the layers from `first` up to, and without, `end`."""
    layers = body.layers
    body.layers = nn.ModuleList(
        layer if first <= number < end else Skipped() for number, layer in enumerate(layers)
    )
    try:
        yield
    finally:
        body.layers = layers


def pieces(batch: SentenceBatch) -> tuple[Tensor, Tensor]:
    """Where each piece's tokens are: places in the batch, counted row by row, and which of them are its own.

    Both are (P, L). A subject's piece begins with its row's BOS, which is not its own; the last of a row's
    pieces is what is outside of all subjects. Padding points at the BOS as well.
    """
    length = batch.ids.shape[1]
    places, own = [], []
    for row in range(len(batch.ids)):
        ends = batch.subject_end[row].masked_fill(batch.ids[row] == 0, -1)  # (S,)
        for end in ends.unique().tolist():
            if end < 0:
                continue
            inside = (ends == end).nonzero()[:, 0]
            if end < length:
                inside = torch.cat([inside.new_zeros(1), inside])
            places.append(inside + row * length)
            own.append(torch.arange(len(inside)) >= (end < length))
    mine = nn.utils.rnn.pad_sequence(own, batch_first=True)  # (P, L)
    padded = nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=-1)  # (P, L)
    return torch.where(padded < 0, padded[:, :1], padded), mine


class SecludingTrainer(Trainer):
    """Isolates subjects by running the lower layers on pieces."""

    def __init__(self, schedule: Schedule, model: Any, triples: list[Triple]) -> None:
        super().__init__(schedule, model, triples)
        self._middle = torch.empty(0)
        border = model.model.layers[schedule.enrich_layers - 1]
        border.register_forward_hook(lambda _m, _i, out: setattr(self, "_middle", out))

    def hidden(self, batch: SentenceBatch, secluded: bool) -> tuple[Tensor, Tensor]:
        """Final hidden states, and those after `enrich_layers`, (B, S, H) each."""
        body, border = self.model.model, self.schedule.enrich_layers
        if not secluded:
            return body(batch.ids, use_cache=False).last_hidden_state, self._middle
        everything, (at, own) = self.counted, pieces(batch)
        self.counted = own.flatten()
        with layers_only(body, 0, border):
            body(batch.ids.flatten()[at], use_cache=False)
        self.counted = everything
        middle = self._middle.new_zeros(batch.ids.numel(), self._middle.shape[-1])  # (B * S, H)
        middle[at[own]] = self._middle[own]
        middle = middle.view(*batch.ids.shape, -1)
        with layers_only(body, border, len(body.layers)):
            final = body(inputs_embeds=middle, use_cache=False).last_hidden_state
        return final, middle
