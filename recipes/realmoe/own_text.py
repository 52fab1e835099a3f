"""Text that a model writes itself: what it is converted on, so that no other text is needed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

BATCH = 64
DOCUMENT_END = "<|endoftext|>"
# Between two temperatures: the lower one writes clean sentences, the higher one rare words.
TEMPERATURES = (1.0, 0.8)


@torch.no_grad()
def own_text(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: int, length: int, seed: int
) -> Iterator[Tensor]:
    """Yield batches (BATCH, length) of token numbers, about `texts` rows in all; each row is one text.

    A text starts with the token that ends a document, which stands before every document in the model's
    training, and in three of four texts with a random word of the vocabulary, so that they differ in what
    they are about.
    """
    generator = torch.Generator().manual_seed(seed)
    vocabulary = tokenizer.get_vocab()
    start = vocabulary[DOCUMENT_END]
    words = torch.tensor([number for piece, number in sorted(vocabulary.items()) if _is_word(piece)])
    for number in range(-(-texts // BATCH)):
        picked = words[torch.randint(len(words), (BATCH,), generator=generator)]
        free = torch.arange(BATCH) % 4 == 0
        prompts = torch.stack([torch.full_like(picked, start), torch.where(free, start, picked)], 1)
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        yield model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=True,
            temperature=TEMPERATURES[number % len(TEMPERATURES)],
            top_k=0,
            max_new_tokens=length - prompts.shape[1],
            eos_token_id=None,  # after the end of a text comes the next one, as in training
            pad_token_id=start,
        )


def _is_word(piece: str) -> bool:
    return len(piece) > 3 and piece.isascii() and piece.isalpha() and piece.istitle()
