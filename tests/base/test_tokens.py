"""What tokens mean is part of a base, in parts that can be named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, processors

from moe_patch.base.tokens import token_hashes
from moe_patch.checkpoint.tokens import stored_tokens
from moe_patch.patch.fingerprint import TOKEN_PARTS, token_differences
from tests.tiny import tiny_tokenizer


def lower(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def end_with_eos(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", tokenizer.eos_token_id)]
    )


def chat(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages }}"


CHANGES: dict[str, list[Callable[[Any], object]]] = {
    "rules": [lower, end_with_eos],
    "added": [lambda tokenizer: tokenizer.add_tokens(["Zorblatt"])],
    "template": [chat],
}


@pytest.mark.parametrize(("part", "change"), [(part, one) for part, ones in CHANGES.items() for one in ones])
def test_each_change_is_named_and_survives_the_disk(
    part: str, change: Callable[[Any], object], tmp_path: Path
) -> None:
    known, tokenizer = token_hashes(tiny_tokenizer()), tiny_tokenizer()
    assert known.keys() == TOKEN_PARTS.keys()
    change(tokenizer)
    found = token_hashes(tokenizer)
    assert token_differences(known, found) == [part]
    tokenizer.save_pretrained(tmp_path)
    assert stored_tokens(tmp_path) == found


def test_a_state_of_use_does_not_count() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer(["a", "long text"], padding=True, truncation=True, max_length=4)
    assert token_hashes(tokenizer) == token_hashes(tiny_tokenizer())


def test_a_folder_without_a_tokenizer_has_no_hashes(tmp_path: Path) -> None:
    assert stored_tokens(tmp_path) == token_hashes(None) == {}
    assert token_differences(token_hashes(tiny_tokenizer()), {}) == []


@pytest.mark.parametrize("damage", [{"added_tokens": 3}, {"model": {"type": "BPE"}}, {"pre_tokenizer": 1}])
def test_a_tokenizer_that_cannot_be_read_is_said(
    damage: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    assert stored_tokens(tmp_path) == {}
    assert "no tokenizer is compared with a patch's" in caplog.text
