"""How far a patch moves a model on ordinary text: its next-token distributions, and its perplexity.

KL(before || after) is the mean over the tokens of the text of the divergence between what the base and the
patched model expect next. Both are run on a batch before the next one, so that no more than a batch of
distributions is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from pydantic import JsonValue
from rich.table import Table
from torch import Tensor

from moe_patch.apply import apply
from moe_patch.base.model import Base
from moe_patch.errors import EvaluationError
from moe_patch.evaluation.scoring import right_padded
from moe_patch.patch import Patch
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite

TEXT_LENGTH = 512
"""Tokens of a sequence, where text that is given is cut into some."""

_LOGITS = 2**26  # of a batch: 256 MiB in fp32, of which there are a few copies
_LARGEST_LOSS = 700.0  # nats; e to it is still a number


@dataclass(frozen=True, slots=True)
class Drift:
    """The change on some text, in nats a token."""

    tokens: int  # predicted ones: all but the first of each sequence
    divergence: float  # mean KL(before || after) of the next token
    loss_before: float  # mean negative log-likelihood of the text
    loss_after: float

    @property
    def perplexity_before(self) -> float:
        """The base's perplexity."""
        return math.exp(min(self.loss_before, _LARGEST_LOSS))

    @property
    def perplexity_after(self) -> float:
        """The patched model's perplexity."""
        return math.exp(min(self.loss_after, _LARGEST_LOSS))

    def to_json(self) -> dict[str, JsonValue]:
        """The fields and both perplexities as plain data."""
        perplexities = {"before": self.perplexity_before, "after": self.perplexity_after}
        return {**asdict(self), "perplexity": dict(perplexities)}

    def table(self) -> Table:
        """Both perplexities and the divergence."""
        title = f"Held-out text of {self.tokens} tokens: perplexity, and KL of the next token in nats"
        table = Table(title=title, title_justify="left", header_style="bold")
        for column in ("patched", "base", "KL"):
            table.add_column(column, justify="right")
        shown = (f"{value:.4g}" for value in (self.perplexity_after, self.perplexity_before))
        table.add_row(*shown, f"{self.divergence:.4g}")
        return table


@torch.no_grad()
def measure_drift(
    base: Base, patch: Patch, sequences: Sequence[Sequence[int]], progress: Progress | None = None
) -> Drift:
    """What a patch changes on sequences of tokens. It is computed beside the weights, which stay as they are.

    A patch that changes prompts alone changes nothing here: these are texts, and nobody asks them.

    Args:
        base: the model as it is to be compared with, without the patch.
        patch: the patch.
        sequences: token ids; those of fewer than two tokens say nothing.
        progress: called with the stage "other text".

    Raises:
        EvaluationError: no sequence has two tokens.
        NumericalError: a loss or a divergence is NaN or infinite.
    """
    rows = sorted((tuple(each) for each in sequences if len(each) > 1), key=len)
    if not rows:
        raise EvaluationError("there is no text to compare the model on: give some of at least two tokens")
    total = torch.zeros(3, dtype=torch.float64)  # of divergence, loss before and loss after
    done = 0
    for batch in _batches(rows, max(1, _LOGITS // base.model.config.get_text_config().vocab_size)):
        ids, mask = right_padded(base, batch)
        before = _expected(base, ids, mask)
        with _patched(base, patch):
            after = _expected(base, ids, mask)
        next_ids = ids[:, 1:][mask[:, 1:].bool()].to(before.device)  # (n,)
        sums = divergence(before, after).sum(), *(_loss(each, next_ids) for each in (before, after))
        total += torch.stack(sums).double().cpu()
        done += len(next_ids)
        if progress is not None:
            progress("other text", done, sum(map(len, rows)) - len(rows))
    check_finite(total, "the divergences and losses on other text")
    moved, loss_before, loss_after = (total / done).tolist()
    return Drift(done, max(0.0, moved), loss_before, loss_after)  # rounding may be below nothing


def _patched(base: Base, patch: Patch) -> AbstractContextManager[object]:
    if patch.kind == "prompt":
        return nullcontext()
    return apply(base, patch, mode="hook", check=False, allow_large=True)


def divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL(before || after) in nats (n,) of log-probabilities (n, V); what has no probability adds nothing."""
    apart = torch.where(before > -torch.inf, before.exp() * (before - after), 0.0)  # (n, V)
    return apart.sum(-1)


def _loss(expected: Tensor, next_ids: Tensor) -> Tensor:
    return F.nll_loss(expected, next_ids, reduction="sum")


def _expected(base: Base, ids: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities (n, V) in fp32 of every next token that is not padding."""
    logits: Tensor = base.model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, S, V)
    return logits[:, :-1][mask[:, 1:].bool().to(logits.device)].float().log_softmax(-1)


def _batches(rows: Sequence[tuple[int, ...]], tokens: int) -> Iterator[Sequence[tuple[int, ...]]]:
    """Rows of ascending length in batches of at most `tokens` tokens; a longer row is a batch of its own."""
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or (end + 1 - start) * len(rows[end]) > tokens:
            yield rows[start:end]
            start = end
