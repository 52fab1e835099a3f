"""Prefixes written by the model itself. An edited prompt should give the same answer after each of them.

MEMIT (arXiv 2210.07229, in its code) samples them from a few openings, so that an edit also works if the
subject is not at the start of the text.
"""

from __future__ import annotations

import torch

from moe_patch.base.model import Base
from moe_patch.data.prompts import pad_token

_OPENINGS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(base: Base, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """Sampled continuations of a few openings, each ending in ". " so that a prompt can follow.

    Args:
        base: the model that writes them.
        count: how many.
        tokens: new tokens in each.
        seed: of the samples. The caller's random state does not change.
    """
    if count == 0:
        return ()
    texts = []
    devices = [base.device] if base.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for number in range(count):
            encoded = base.tokenizer(_OPENINGS[number % len(_OPENINGS)], return_tensors="pt").to(base.device)
            written = base.model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=tokens,
                do_sample=True,
                pad_token_id=pad_token(base.tokenizer),
            )
            text = base.tokenizer.decode(written[0], skip_special_tokens=True)
            texts.append(f"{' '.join(text.split())}. ")
    return tuple(texts)
