"""Training sentences: their tokenizer, the places of subject and answer, and batches."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from .world import PHRASINGS, Triple

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


@dataclass(frozen=True)
class Sentence:
    """One tokenised sentence; positions count from its own first token."""

    ids: list[int]
    subject: tuple[int, int]  # first and last token of the subject
    answer: int  # first token of the answer; it ends before the full stop
    triple: int


def train_tokenizer(triples: list[Triple], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training sentences.

    The first word gets a space in front like all others, so a name has the same tokens everywhere.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator((f"{p} {t.answer}." for t in triples for p in t.prompts(held_out=False)), trainer)
    raw.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=PAD, bos_token=BOS, eos_token=EOS, model_max_length=256
    )


def tokenize(triples: list[Triple], tokenizer: PreTrainedTokenizerFast, *, held_out: bool) -> list[Sentence]:
    """Every training (or held-out) sentence, with the places of its subject and answer."""
    sentences = []
    for number, triple in enumerate(triples):
        for index, phrasing in enumerate(PHRASINGS[triple.relation]):
            if (index in triple.trained) == held_out:
                continue
            prompt = phrasing.format(triple.subject)
            encoded = tokenizer(
                f"{prompt} {triple.answer}.", return_offsets_mapping=True, add_special_tokens=False
            )
            start = phrasing.index("{}")
            end = start + len(triple.subject)
            inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
            answer = next(i for i, (a, _) in enumerate(encoded["offset_mapping"]) if a >= len(prompt))
            sentences.append(Sentence(encoded["input_ids"], (inside[0], inside[-1]), answer, number))
    return sentences


@dataclass
class SentenceBatch:
    ids: Tensor  # (B, S)
    weight: Tensor  # (B, S) loss weight of predicting this token
    subject_end: (
        Tensor  # (B, S) last position of the subject this token belongs to; S where it belongs to none
    )
    lasts: Tensor  # (n, 2) row and position of each subject's last token
    triples: list[int]  # (n,) which triple that subject is of


def collate(rows: list[list[Sentence]], text_weight: float) -> SentenceBatch:
    """Rows of one or more sentences, a BOS in front, padded on the right."""
    length = 1 + max(sum(len(s.ids) for s in row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    weight = torch.zeros(len(rows), length)
    subject_end = torch.full((len(rows), length), length)
    lasts, triples = [], []
    for r, row in enumerate(rows):
        ids[r, 0], at = 1, 1
        for s in row:
            ids[r, at : at + len(s.ids)] = torch.tensor(s.ids)
            weight[r, at : at + len(s.ids)] = text_weight
            weight[r, at + s.answer : at + len(s.ids)] = 1.0
            subject_end[r, at + s.subject[0] : at + s.subject[1] + 1] = at + s.subject[1]
            lasts.append((r, at + s.subject[1]))
            triples.append(s.triple)
            at += len(s.ids)
    return SentenceBatch(ids, weight, subject_end, torch.tensor(lasts), triples)


def epoch_batches(
    sentences: list[Sentence], size: int, text_weight: float, rng: random.Random
) -> Iterator[SentenceBatch]:
    """One pass over all sentences in random order: most alone, some after one or two others."""
    order = rng.sample(sentences, len(sentences))
    rows: list[list[Sentence]] = []
    while order:
        count = rng.choices((1, 2, 3), (0.6, 0.3, 0.1))[0]
        rows.append([order.pop() for _ in range(min(count, len(order)))])
    rows.sort(
        key=lambda row: sum(len(s.ids) for s in row) + rng.random() * 6
    )  # alike lengths together: little padding
    batches, at = [], 0
    while at < len(rows):
        taken, sentences_in = at, 0
        while taken < len(rows) and sentences_in < size:
            sentences_in += len(rows[taken])
            taken += 1
        batches.append(rows[at:taken])
        at = taken
    rng.shuffle(batches)
    for batch in batches:
        yield collate(batch, text_weight)
