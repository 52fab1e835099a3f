"""Prefixes written by the model itself. An edited prompt should give the same answer after each of them.

MEMIT (arXiv 2210.07229, in its code) samples them from a few openings, so that an edit also works if the
subject is not at the start of the text.
"""

from __future__ import annotations

import torch

from moe_patch.base.decoding import continue_rows
from moe_patch.base.model import Base

_OPENINGS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(base: Base, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """Sampled continuations of a few openings, each ending in ". " so that a prompt can follow.

    Args:
        base: the model that writes them.
        count: how many.
        tokens: new tokens in each.
        seed: of the samples. The caller's random state does not change.

    Raises:
        PromptError: the model has no positions for so many tokens.
    """
    if count == 0:
        return ()
    texts = []
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for number in range(count):
            opening = base.reader.read_prompt(_OPENINGS[number % len(_OPENINGS)], chat=False)
            base.reader.check_room(opening, tokens, "a generated context")
            (written,) = continue_rows(base, [opening], tokens, sample=True)
            text = base.tokenizer.decode([*opening, *written], skip_special_tokens=True)
            texts.append(f"{' '.join(text.split())}. ")
    return tuple(texts)
