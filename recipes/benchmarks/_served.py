"""What a running server answers."""

from __future__ import annotations

import json

from moe_patch.io.http import send

_SECONDS = 600.0
_MOST_BYTES = 2**20


def served_text(url: str, model: str, prompt: str, tokens: int) -> str:
    """The server's greedy continuation of a prompt, at most this many tokens.

    Raises:
        OSError: the server gives no answer, or an answer that is no success.
    """
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
    answer = send("POST", f"{url}/v1/completions", seconds=_SECONDS, most_bytes=_MOST_BYTES, body=body)
    if not answer.success:
        raise OSError(f"{url}: {answer.complaint}")
    return str(json.loads(answer.body)["choices"][0]["text"])
