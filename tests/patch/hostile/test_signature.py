"""Signature files that are damaged, wrong, or no signatures at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from moe_patch.errors import BadSignature, Unsigned
from moe_patch.io import strict_json
from moe_patch.patch.signature import check_signature, key_id, sign_patch, signature_path
from tests.patch.patches import digest

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32)), Ed25519PrivateKey.from_private_bytes(b"1" * 32)
HASH = digest(5)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "p.safetensors"
    sign_patch(path, HASH, KEY)
    return path


def refused(path: Path, message: str, trusted: Ed25519PrivateKey = KEY, digest: str = HASH) -> None:
    with pytest.raises(BadSignature, match=message) as caught:
        check_signature(path, digest, [trusted.public_key()])
    assert str(signature_path(path)) in str(caught.value)


def rewritten(path: Path, **changes: Any) -> Path:
    file = signature_path(path)
    file.write_text(strict_json.canonical_json(json.loads(file.read_text()) | changes) + "\n")
    return path


def test_a_good_one_is_accepted_and_says_whose_it_is(signed: Path) -> None:
    keys = [OTHER.public_key(), KEY.public_key()]
    assert check_signature(signed, HASH, keys) == key_id(KEY.public_key())


def test_none_is_another_error_than_a_bad_one(tmp_path: Path) -> None:
    with pytest.raises(Unsigned, match="there is no signature"):
        check_signature(tmp_path / "p.safetensors", HASH, [KEY.public_key()])


def test_of_another_patch(signed: Path) -> None:
    refused(signed, "is of a patch with the hash", digest=digest(6))


def test_of_another_patch_with_its_hash_exchanged(signed: Path) -> None:
    refused(rewritten(signed, hash=digest(6)), "the signature is not that of the key", digest=digest(6))


def test_by_a_key_that_is_not_trusted(signed: Path) -> None:
    refused(signed, "not among those trusted", trusted=OTHER)


def test_by_another_key_under_the_name_of_a_trusted_one(signed: Path) -> None:
    sign_patch(signed, HASH, OTHER)
    refused(rewritten(signed, key=key_id(KEY.public_key())), "the signature is not that of the key")


def test_the_bare_hash_signed_for_another_purpose(signed: Path) -> None:
    refused(rewritten(signed, signature=KEY.sign(HASH.encode()).hex()), "the signature is not that")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format"),
        ({"format": True}, "canonical"),  # which Python takes for a 1
        ({"algorithm": "none"}, "algorithm"),
        ({"signature": "00"}, "signature"),
        ({"signature": "g" * 128}, "signature"),
        ({"signature": 5}, "signature"),
        ({"key": "sha256:"}, "key"),
        ({"hash": None}, "hash"),
        ({"comment": "trust me"}, "comment: no such field"),
    ],
)
def test_fields_are_held_to_the_schema(signed: Path, changes: dict[str, Any], message: str) -> None:
    refused(rewritten(signed, **changes), message)


def test_one_signature_has_one_spelling(signed: Path) -> None:
    file = signature_path(signed)
    file.write_text(f" {file.read_text()}")
    refused(signed, "canonical JSON")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "is no signature"),
        (b"\xff\xfe", "is no signature"),
        (b"[]", "valid dictionary"),
        (b'{"format":1,"format":1}', "appears twice"),
        (b"[" * 4000, "is no signature"),
        (b"{" + b" " * 5000 + b"}", "longer than 4096 bytes"),
    ],
    ids=["empty", "not UTF-8", "a list", "keys twice", "nested", "long"],
)
def test_what_is_no_signature_file(signed: Path, raw: bytes, message: str) -> None:
    signature_path(signed).write_bytes(raw)
    refused(signed, message)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in its file system")
def test_a_pipe_is_not_waited_for(signed: Path) -> None:
    signature_path(signed).unlink()
    os.mkfifo(signature_path(signed))
    with pytest.raises(BadSignature, match="not an ordinary file"):
        check_signature(signed, HASH, [KEY.public_key()])
