"""The answers of tokenised prompts: where a model predicts their tokens, and how likely they are to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_patch.data.prompts import Prompt
from moe_patch.targets.tail import Reads

FARTHEST = 1e4
"""The largest lead of an answer, in nats."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The answer tokens of B prompts, and where their logits are read."""

    reads: Reads  # n answer tokens, each read at the token before it
    ids: Tensor  # (n,)
    lengths: Tensor  # (B,) answer tokens of each prompt; 0 for an answer that is empty

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> Answers:
        """The answers of prompts, all of which were encoded with one."""
        row, index, ids = [], [], []
        for number, prompt in enumerate(prompts):
            assert prompt.target is not None
            for place in range(prompt.target, len(prompt.ids)):
                row.append(number)
                index.append(place - 1)
                ids.append(prompt.ids[place])
        rows, indices, tokens = (torch.tensor(numbers, dtype=torch.int64) for numbers in (row, index, ids))
        return cls(Reads(rows, indices), tokens, torch.bincount(rows, minlength=len(prompts)))

    def nll(self, logits: Tensor) -> Tensor:
        """Mean negative log-likelihood (B,) of each prompt's answer, in nats, from logits (n, V)."""
        return self.mean(F.cross_entropy(logits.float(), self.ids.to(logits.device), reduction="none"))

    def margin(self, logits: Tensor) -> Tensor:
        """How far (B,) each prompt's answer leads, in nats: the least lead of its tokens over the next best.

        It is positive just where greedy decoding gives the whole answer, and never beyond `FARTHEST`, which
        is the lead of an empty answer too: JSON, in which it is recorded, has no infinity.

        Args:
            logits: (n, V).
        """
        wide, ids = logits.float(), self.ids.to(logits.device)[:, None]
        own = wide.gather(1, ids)[:, 0]  # (n,)
        lead = (own - wide.scatter(1, ids, -torch.inf).amax(1)).clamp(-FARTHEST, FARTHEST)  # (n,)
        row = self.reads.row.to(lead.device)
        return lead.new_full((len(self.lengths),), FARTHEST).scatter_reduce(0, row, lead, "amin")

    def mean(self, values: Tensor) -> Tensor:
        """The means (B,) of values (n,) at the reads, over each prompt's answer; 0 for an empty answer."""
        row = self.reads.row
        share = values / self.lengths[row].to(values.device)  # (n,)
        return values.new_zeros(len(self.lengths)).index_add(0, row.to(values.device), share)
