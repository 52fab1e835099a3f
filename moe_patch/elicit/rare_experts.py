"""Text for experts that a base's own text hardly reaches: what follows beginnings that are sent to them.

A beginning is one token of the vocabulary, or a few tokens up to a place in written text for which the router
rates the expert high. It is used if its last token does reach the expert.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from moe_patch.base.capture import ExpertCall, capture_routing
from moe_patch.base.decoding import seeded
from moe_patch.base.model import Base
from moe_patch.data.corpus import padded_batches
from moe_patch.data.prompts import pad_token
from moe_patch.elicit.writing import Row, Wrote, continue_until_end, row_texts

_LENGTH = 16  # tokens written after a beginning
_WINDOW = 8  # tokens of written text in a beginning
_WINDOWS = 16  # for each expert
_SINGLES = 4096  # tokens of the vocabulary that are tried
_READ = 16_384  # tokens of written text that are searched for windows
_TOKENS_PER_PASS = 8192

Wanted = Mapping[int, Mapping[int, int]]
"""By layer and expert, how many more tokens should reach the expert."""


def write_for_experts(
    base: Base, texts: Sequence[str], wanted: Wanted, seed: int, wrote: Wrote | None = None
) -> list[str]:
    """Texts with tokens that the router sends to the wanted experts; none for experts that nothing reaches.

    Args:
        base: the model, without patches.
        texts: what it has written so far.
        wanted: the experts, by layer, with how many texts are begun for each at most.
        seed: of the samples. The caller's random state does not change.
        wrote: called after each token of a pass.

    Raises:
        NumericalError: a router's score or a logit is not finite.
    """
    start = base.reader.read_start(chat=False)
    with seeded(base, seed):
        singles = [(*start, token) for token in _vocabulary(base)]
        windows = [(*start, *window) for window in _windows(base, texts, wanted)]
        begun = _reaching(base, list(dict.fromkeys([*windows, *singles])), wanted)
        rows = continue_until_end(base, begun, _LENGTH, wrote)
    return row_texts(base, [row[len(start) :] for row in rows])


def _reaching(base: Base, rows: list[Row], wanted: Wanted) -> list[Row]:
    """For each wanted expert the rows whose last token reaches it, as many as are wanted, best first."""
    scores: dict[int, list[Tensor]] = {layer: [] for layer in wanted}
    chosen: dict[int, list[Tensor]] = {layer: [] for layer in wanted}
    order: list[Row] = []
    for batch, calls in _routing(base, rows, wanted):
        last = torch.tensor([len(row) for row in batch]).cumsum(0) - 1  # (B,) among the batch's tokens
        order += batch
        for layer, call in calls.items():
            count = base.layer(layer).num_experts
            scores[layer].append(_scores(call, count)[last])  # (B, E)
            chosen[layer].append(_is_chosen(call, count)[last])  # (B, E)
    found: dict[Row, None] = {}
    for layer, experts in wanted.items():
        score, reached = torch.cat(scores[layer]), torch.cat(chosen[layer])  # (n, E) each
        for expert, count in experts.items():
            places = reached[:, expert].nonzero().squeeze(1)
            best = score[places, expert].argsort(descending=True)[:count]
            found |= dict.fromkeys(order[place] for place in places[best].tolist())
    return list(found)


def _windows(base: Base, texts: Sequence[str], wanted: Wanted) -> list[Row]:
    """The tokens before and at the places in written text that the router rates highest for each expert."""
    rows: list[Row] = []
    left = _READ
    for sequence in base.reader.sequences(list(texts), _TOKENS_PER_PASS):
        rows.append(tuple(sequence))
        left -= len(sequence)
        if left <= 0:
            break
    skipped, special = len(base.reader.before_text()), set(base.tokenizer.all_special_ids)
    best: dict[tuple[int, int], list[tuple[float, Row]]] = {}
    for batch, calls in _routing(base, rows, wanted):
        ends = [(row, end) for row in batch for end in range(1, len(row) + 1)]
        for layer, call in calls.items():
            score = _scores(call, base.layer(layer).num_experts)  # (N, E)
            for expert in wanted[layer]:
                values, places = score[:, expert].topk(min(_WINDOWS, len(score)))
                known = best.setdefault((layer, expert), [])
                for value, place in zip(values.tolist(), places.tolist(), strict=True):
                    row, end = ends[place]
                    window = row[max(skipped, end - _WINDOW) : end]
                    if window and not special & set(window):
                        known.append((value, window))
                known.sort(key=lambda pair: -pair[0])
                del known[_WINDOWS:]
    return [window for known in best.values() for _, window in known]


def _routing(
    base: Base, rows: Sequence[Row], layers: Collection[int]
) -> Iterator[tuple[list[Row], dict[int, ExpertCall]]]:
    """Batches of the rows, with the routing of their tokens, row by row."""
    for ids, mask in padded_batches(list(map(list, rows)), _TOKENS_PER_PASS, pad_token(base.tokenizer)):
        batch = [tuple(row[kept.bool()].tolist()) for row, kept in zip(ids, mask, strict=True)]
        yield batch, capture_routing(base, ids, mask, layers)


def _scores(call: ExpertCall, experts: int) -> Tensor:
    """(N, E) how highly the router rates each expert at each token, comparable between tokens."""
    if call.scores is not None:
        return call.scores.float().log_softmax(-1).cpu()
    table = torch.zeros(len(call.gates), experts + 1)  # the last column is for slots that reach no expert
    return table.scatter_reduce_(1, call.experts.cpu(), call.gates.float().cpu(), "amax")[:, :experts]


def _is_chosen(call: ExpertCall, experts: int) -> Tensor:
    """(N, E) whether each token reaches each expert."""
    table = torch.zeros(len(call.experts), experts + 1, dtype=torch.bool)
    return table.scatter_(1, call.experts.cpu(), True)[:, :experts]


def _vocabulary(base: Base) -> list[int]:
    """Tokens to try: all but the special ones, or some at random of a large vocabulary."""
    count = min(len(base.tokenizer), base.reader.rows or len(base.tokenizer))
    special = set(base.tokenizer.all_special_ids)
    return [token for token in torch.randperm(count)[:_SINGLES].tolist() if token not in special]
