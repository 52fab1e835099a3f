"""Scoring answers: how likely the model finds them, whether it would give them, and what it answers itself.

Every score is teacher forced and covers all tokens of the answer, not only the first. Answers to one prompt
share a row as far as one begins like the other; an answer's last token predicts nothing and is not run. Rows
are right padded in batches of similar length, and the language-model head runs only at positions that predict
answer tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base
from moe_patch.bypass import prompt_lengths
from moe_patch.data.prompts import pad_token
from moe_patch.data.reader import quoted
from moe_patch.errors import EvaluationError
from moe_patch.progress import Progress
from moe_patch.solve.finite import check_finite, tokens_text

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """The score of a given answer to a given prompt."""

    logprob: float  # mean log-probability of the answer's tokens, natural logarithm
    greedy: tuple[bool, ...]  # for each token, whether greedy decoding chooses it after the tokens before it

    @property
    def accuracy(self) -> float:
        """The share of tokens that greedy decoding chooses, from 0 to 1."""
        return sum(self.greedy) / len(self.greedy)

    @property
    def exact(self) -> bool:
        """Whether greedy decoding gives the whole answer."""
        return all(self.greedy)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenised prompt with its answer."""

    ids: tuple[int, ...]
    first: int  # index of the answer's first token

    @property
    def answer(self) -> tuple[int, ...]:
        """The tokens of the answer."""
        return self.ids[self.first :]


def answer_text(base: Base, encoded: Encoded) -> str:
    """The answer in words, without special tokens and without white space around it."""
    return str(base.tokenizer.decode(encoded.ids[encoded.first :], skip_special_tokens=True)).strip()


def encode_answer(base: Base, prompt: str, answer: str, *, chat: bool = False, name: str = "") -> Encoded:
    """Tokenise the prompt with its answer; a token that holds parts of both belongs to the answer.

    Args:
        base: the model.
        prompt: the prompt.
        answer: the answer.
        chat: whether they are put into the tokenizer's chat template.
        name: of the prompt, for errors; by default it is quoted.

    Raises:
        EvaluationError: the answer has no token of its own.
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        PromptError: as for `Reader.read_answer`.
    """
    reading = base.reader.read_answer(prompt, answer, chat=chat, name=name)
    if not reading.answer or not reading.prompt:
        raise EvaluationError(f"the answer {answer!r} after {prompt!r} has no token that can be predicted")
    return Encoded(reading.ids, reading.first)


def score_answers(
    base: Base,
    answers: Sequence[tuple[str, str]],
    *,
    batch_size: int = 64,
    chat: bool = False,
    progress: Progress | None = None,
    stage: str = "scoring",
    names: Sequence[str] = (),
) -> list[AnswerScore]:
    """Score (prompt, answer) pairs with the model as it is now; equal pairs are run once.

    Args:
        base: the model.
        answers: the pairs.
        batch_size: pairs in one forward pass.
        chat: whether they are put into the tokenizer's chat template.
        progress: called while they are run.
        stage: the name that progress is reported under.
        names: of the prompts, for errors; by default they are quoted.

    Raises:
        EvaluationError: an answer has no token of its own, or the batch size is below 1.
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        NumericalError: the model finds an answer NaN or infinitely unlikely.
        PromptError: as for `Reader.read_answer`.
    """
    unique = dict(zip(answers, names or [""] * len(answers), strict=True))
    encoded = [encode_answer(base, *pair, chat=chat, name=name) for pair, name in unique.items()]
    scores = score_encoded(base, encoded, batch_size=batch_size, progress=progress, stage=stage)
    found = dict(zip(unique, scores, strict=True))
    return [found[pair] for pair in answers]


def score_encoded(
    base: Base, encoded: Sequence[Encoded], *, batch_size: int, progress: Progress | None, stage: str
) -> list[AnswerScore]:
    """`score_answers` for texts that are tokenised already.

    Raises:
        EvaluationError: the batch size is below 1.
        NumericalError: as for `score_answers`.
    """
    rows, run = shared_rows(encoded), partial(_score_batch, base)
    scores = _by_length(rows, lambda row: len(row[-1].ids), run, batch_size, progress, stage)
    found = {
        item: score
        for row, each in zip(rows, scores, strict=True)
        for item, score in zip(row, each, strict=True)
    }
    return [found[item] for item in encoded]


def shared_rows(encoded: Sequence[Encoded]) -> list[list[Encoded]]:
    """Texts by the row that scores them: its last one's, whose tokens but the last begin with theirs.

    Only texts with the same prompt share a row. Each distinct text is in one of the rows.
    """
    rows: list[list[Encoded]] = []
    # in this order, what a text begins stands directly behind it
    for item in sorted(dict.fromkeys(encoded), key=lambda item: (item.first, item.ids[:-1])):
        if rows and _begins(rows[-1][-1], item):
            rows[-1].append(item)
        else:
            rows.append([item])
    return rows


def _begins(text: Encoded, other: Encoded) -> bool:
    run = text.ids[:-1]
    return text.first == other.first and other.ids[: len(run)] == run


def continue_greedily(
    base: Base,
    prompts: Sequence[str],
    lengths: Sequence[int],
    *,
    batch_size: int = 64,
    chat: bool = False,
    progress: Progress | None = None,
    stage: str = "answering",
) -> list[Encoded]:
    """Each prompt's tokens followed by the model's own reply: greedily at most `lengths[i]` tokens.

    Raises:
        EvaluationError: the batch size is below 1.
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `Reader.read_question`; or the model has no positions for a reply.
    """
    rows = [base.reader.read_question(prompt, chat=chat) for prompt in prompts]
    for prompt, row, length in zip(prompts, rows, lengths, strict=True):
        base.reader.check_room(row, length, quoted(prompt))
    return continue_tokens(base, rows, lengths, batch_size=batch_size, progress=progress, stage=stage)


def stream_answer(
    base: Base, prompt: str, length: int, each_text: Callable[[str], None], *, chat: bool = False
) -> str:
    """The model's own reply to one prompt, as `continue_greedily` has it, while it is being written.

    Args:
        base: the model.
        prompt: the prompt.
        length: of the longest reply, in tokens.
        each_text: called after each token with all of the text so far.
        chat: whether the prompt is put into the tokenizer's chat template.

    Raises:
        NoChatTemplate: `chat` is on, and the tokenizer has no chat template.
        NumericalError: the logits hold NaN or an infinity.
        PromptError: as for `continue_greedily`.
    """
    row = base.reader.read_question(prompt, chat=chat)
    base.reader.check_room(row, length, quoted(prompt))
    written: list[int] = []

    def add(token: int) -> None:
        written.append(token)
        each_text(answer_text(base, Encoded((*row, *written), len(row))))

    (tail,) = continue_rows(base, [row], length, each_token=add)
    return answer_text(base, Encoded(row + tail, len(row)))


def continue_tokens(
    base: Base,
    rows: Sequence[tuple[int, ...]],
    lengths: Sequence[int],
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
    stage: str = "answering",
    also_ends: Collection[int] = (),
) -> list[Encoded]:
    """`continue_greedily` for prompts that are tokenised already.

    A continuation also ends with the tokens of `also_ends`.

    Raises:
        EvaluationError: the batch size is below 1.
        NumericalError: the logits hold NaN or an infinity.
    """

    def run(batch: list[tuple[tuple[int, ...], int]]) -> list[Encoded]:
        longest = max(length for _, length in batch)
        tails = continue_rows(base, [row for row, _ in batch], longest, also_ends=also_ends)
        return [
            Encoded(row + tail[:length], len(row)) for (row, length), tail in zip(batch, tails, strict=True)
        ]

    items = list(zip(rows, lengths, strict=True))
    return _by_length(items, lambda item: len(item[0]), run, batch_size, progress, stage)


def _by_length(
    items: Sequence[T],
    length: Callable[[T], int],
    run: Callable[[list[T]], list[R]],
    batch_size: int,
    progress: Progress | None,
    stage: str,
) -> list[R]:
    """`run` on batches of items of similar length, the longest first; results are in the items' order."""
    order = sorted(range(len(items)), key=lambda i: -length(items[i]))
    results: dict[int, R] = {}
    for batch in split_batches(order, batch_size):
        results.update(zip(batch, run([items[i] for i in batch]), strict=True))
        if progress is not None:
            progress(stage, len(results), len(items))
    return [results[i] for i in range(len(items))]


def split_batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Batches of `size` items in order; the last may be smaller.

    Raises:
        EvaluationError: the size is below 1.
    """
    if size < 1:
        raise EvaluationError(f"the batch size is {size}; it must be at least 1")
    for start in range(0, len(items), size):
        yield items[start : start + size]


@torch.no_grad()
def _score_batch(base: Base, batch: list[list[Encoded]]) -> list[list[AnswerScore]]:
    """The scores of all texts of each row."""
    longest = [row[-1] for row in batch]
    ids, mask = right_padded(base, [item.ids[:-1] for item in longest])
    wanted = sorted({at - 1 for item in longest for at in range(item.first, len(item.ids))})
    column = {position: i for i, position in enumerate(wanted)}
    kept = torch.tensor(wanted, device=ids.device)
    with prompt_lengths([item.first for item in longest]):  # the answers do not belong to the prompts
        logits = base.model(input_ids=ids, attention_mask=mask, logits_to_keep=kept, use_cache=False).logits
    scores = []
    for number, row in enumerate(batch):
        columns = [column[at - 1] for at in range(row[-1].first, len(row[-1].ids))]
        logprobs = logits[number, columns].float().log_softmax(-1)  # (A, V), one row per answer token
        scores.append([_answer_score(logprobs, item) for item in row])
    prompts = [item.ids[: item.first] for row in batch for item in row]
    check_finite(
        torch.tensor([score.logprob for each in scores for score in each]),
        "the log-probabilities of the answer",
        lambda i: f"after {tokens_text(base.tokenizer, prompts[i])}",
    )
    return scores


def _answer_score(logprobs: Tensor, item: Encoded) -> AnswerScore:
    """The score of a text by log-probabilities (A, V) at its answer, and perhaps at later positions."""
    answer = torch.tensor(item.answer, device=logprobs.device)  # (a,) with a <= A
    said = logprobs[: len(answer)].argmax(-1) == answer  # (a,)
    mean = logprobs[: len(answer)].gather(1, answer[:, None]).mean()
    return AnswerScore(float(mean), tuple(said.tolist()))


def right_padded(base: Base, rows: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (B, S), on the model's device."""
    longest = max(len(row) for row in rows)
    pad = pad_token(base.tokenizer)
    ids = torch.tensor([row + (pad,) * (longest - len(row)) for row in rows])  # (B, S)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])  # (B, S)
    return ids.to(base.device), mask.to(base.device)
