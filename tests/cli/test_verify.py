"""`moe-patch sign` and `moe-patch verify`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from moe_patch.patch import load, save
from moe_patch.share.verify import Verdict
from tests.cli.conftest import Run
from tests.tiny import tiny_base, tiny_patch


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key with a passphrase, and its public key."""
    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key", tmp_path / "key.pub"
    encryption = BestAvailableEncryption(b"open")
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def copy(patch_file: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(patch_file, tmp_path / "copy.safetensors"))


def test_signed_with_a_passphrase_and_verified(run: Run, copy: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    required = ("verify", copy, "--require-signature", "--key", public, "--json")
    unsigned = run(*required)
    assert unsigned.exit_code == Verdict.UNSIGNED
    assert json.loads(unsigned.stdout)["verdict"] == "unsigned"
    refused = run("sign", copy, "--key", private)
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    signed = run("sign", copy, "--key", private, "--passphrase", "--json", given="open\n")
    written = json.loads(signed.stdout)
    assert written["signature"] == f"{copy}.sig"
    shown = json.loads(run(*required).stdout)
    assert shown["verdict"] == "sound"
    assert shown["signed_by"] == written["key"]
    assert shown["hash"] == written["hash"] == load(copy).hash


def test_a_required_signature_needs_a_key_to_trust(run: Run, copy: Path) -> None:
    assert run("verify", copy, "--require-signature").exit_code == 2


def test_exit_codes_say_what_is_wrong(run: Run, copy: Path, model: Path, tmp_path: Path) -> None:
    assert run("verify", copy, "--model", model, "--no-ask").exit_code == 0
    half, other = tmp_path / "half.safetensors", tmp_path / "other.safetensors"
    half.write_bytes(copy.read_bytes()[:-1])
    found = run("verify", half)
    assert found.exit_code == Verdict.UNREADABLE
    assert "half.safetensors: unreadable: " in found.stdout
    save(tiny_patch(tiny_base("qwen3_moe", seed=1), [0]), other)
    assert run("verify", other, "--model", model, "--no-ask").exit_code == Verdict.WRONG_BASE
    not_held = run("verify", copy, "--model", model, "--json")  # random rows make it say nothing
    assert not_held.exit_code == Verdict.NOT_HELD
    assert len(json.loads(not_held.stdout)["missed"]) == 4
    assert run("verify", copy, "--model", model, "--at-least", "0").exit_code == 0


def test_what_cannot_be_checked_is_an_error_and_no_verdict(run: Run, copy: Path, tmp_path: Path) -> None:
    missing = run("verify", copy, "--model", tmp_path / "none", "--no-ask")
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)


def test_a_key_of_another_kind_is_refused(run: Run, copy: Path, tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    private = tmp_path / "plain"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    refused = run("verify", copy, "--key", private)
    assert refused.exit_code == 1
    assert "cannot be read as a public key" in refused.stderr


def test_an_empty_name_is_not_no_name(run: Run, copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words in (
        ("verify", copy, "--model", "", "--no-ask"),
        ("verify", copy, "--model", ""),
        ("merge", "--patch", copy, "--model", "", "--out", out),
    ):
        assert run(*words).exit_code == 1
