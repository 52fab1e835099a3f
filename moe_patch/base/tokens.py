"""Hashes of what tokens mean: vocabulary, rules, added tokens, and the chat template."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from moe_patch.patch.fingerprint import TEMPLATE, sha256_json


def token_hashes(tokenizer: Any) -> dict[str, str]:
    """The hash of each of `moe_patch.patch.fingerprint.TOKEN_PARTS`; nothing without a tokenizer.

    Truncation and padding are left out, since they are states of use, and so is the decoder, since it has no
    say in what a model reads.
    """
    if tokenizer is None:
        return {}
    fast = getattr(tokenizer, "backend_tokenizer", None)
    parts = _slow_parts(tokenizer) if fast is None else _fast_parts(fast.to_str())
    return {**parts, TEMPLATE: sha256_json(getattr(tokenizer, "chat_template", None))}


@lru_cache(maxsize=4)  # parsing the text of a large vocabulary takes a second
def _fast_parts(text: str) -> dict[str, str]:
    """The hashes for a tokenizer of the library `tokenizers`, from its own text."""
    found = json.loads(text)
    return {
        "vocabulary": sha256_json(found["model"]),
        "rules": sha256_json([found[rule] for rule in ("normalizer", "pre_tokenizer", "post_processor")]),
        "added": sha256_json(found["added_tokens"]),
    }


def _slow_parts(tokenizer: Any) -> dict[str, str]:
    """The hashes for a tokenizer in Python, whose rules are its class."""
    added = {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    return {
        "vocabulary": sha256_json(tokenizer.get_vocab()),
        "rules": sha256_json(type(tokenizer).__name__),
        "added": sha256_json(added),
    }
