"""Prefixes that a model writes itself, after which an edited prompt should give the same answer.

MEMIT (arXiv 2210.07229, in its code) samples them from a few openings, so that an edit does not depend on the
subject standing at the start of a text.
"""

from __future__ import annotations

import torch

from moe_patch.base.model import Base
from moe_patch.data.prompts import pad_token

_OPENINGS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(base: Base, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """`count` sampled continuations of a few openings, each ending in ". " so that a prompt can follow.

    Args:
        tokens: new tokens a prefix.
        seed: decides the samples; the caller's random state is untouched.
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
