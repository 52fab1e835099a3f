"""The hashes of what tokens mean in a checkpoint folder."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import transformers
from transformers import AutoTokenizer

from moe_patch.base.refusal import transformers_reads
from moe_patch.base.tokens import token_hashes
from moe_patch.errors import ModelError
from moe_patch.io.known import Known, digest_tensor, digest_text
from moe_patch.patch.fingerprint import TOKEN_PARTS

logger = logging.getLogger(__name__)

# A folder with a tokenizer has a file whose name begins so, or a SentencePiece model.
_MARKS = ("tekken", "tokenizer", "vocab")
_TEXTS = {".jinja", ".json", ".model", ".txt"}  # among them are the files that tokenizers are made from


def stored_tokens(folder: Path) -> dict[str, str]:
    """As `token_hashes`, for the tokenizer in `folder`; nothing without one."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix in _TEXTS and path.is_file()]
    if not any(path.name.startswith(_MARKS) or path.suffix == ".model" for path in files):
        return {}
    known = Known.of(["tokens", 1, transformers.__version__], files)
    if (found := known.find()) is not None:
        return {part: f"sha256:{digest_text(found[part])}" for part in TOKEN_PARTS}
    try:
        with transformers_reads(f"the tokenizer of '{folder}'"):
            hashes = token_hashes(AutoTokenizer.from_pretrained(folder))
    except ModelError as error:
        _warn_once(f"no tokenizer is compared with a patch's: {error}")
        return {}
    known.store({part: digest_tensor(digest.removeprefix("sha256:")) for part, digest in hashes.items()})
    return hashes


@cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
