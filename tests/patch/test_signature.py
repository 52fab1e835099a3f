"""Signatures of patches, and reading the keys."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from moe_patch.errors import BadSignature, ConfigError
from moe_patch.patch import load, save
from moe_patch.patch.signature import check_signature, key_id, read_private_key, read_public_key, sign_patch
from tests.patch.patches import delta_patch

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def write_key(
    path: Path, form: PrivateFormat, encryption: KeySerializationEncryption | None = None
) -> tuple[Path, Path]:
    """Write the private key to `path` and the public one beside it."""
    public = path.with_name(path.name + ".pub")
    ssh = form is PrivateFormat.OpenSSH
    path.write_bytes(KEY.private_bytes(Encoding.PEM, form, encryption or NoEncryption()))
    forms = (
        (Encoding.OpenSSH, PublicFormat.OpenSSH) if ssh else (Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    public.write_bytes(KEY.public_key().public_bytes(*forms) + b"\n")
    return path, public


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.OpenSSH])
def test_signed_with_a_key_file_and_checked_with_the_other(tmp_path: Path, form: PrivateFormat) -> None:
    private, public = write_key(tmp_path / "key", form)
    path = tmp_path / "p.safetensors"
    save(delta_patch(), path)
    sign_patch(path, load(path).hash, read_private_key(private))
    assert check_signature(path, load(path).hash, [read_public_key(public)]) == key_id(KEY.public_key())


def test_the_same_content_written_again_keeps_its_signature_and_other_content_does_not(
    tmp_path: Path,
) -> None:
    path, patch = tmp_path / "p.safetensors", delta_patch()
    save(patch, path)
    sign_patch(path, patch.hash, KEY)
    save(load(path), path)
    assert check_signature(path, load(path).hash, [KEY.public_key()])
    save(replace(patch, created="2026-02-01T12:00:00+00:00"), path)
    with pytest.raises(BadSignature, match="is of a patch with the hash"):
        check_signature(path, load(path).hash, [KEY.public_key()])


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    private, _ = write_key(tmp_path / "key", PrivateFormat.PKCS8, BestAvailableEncryption(b"open"))
    assert read_private_key(private, b"open").private_bytes_raw() == KEY.private_bytes_raw()
    for password in (None, b"shut"):
        with pytest.raises(ConfigError, match="cannot be read as a private key"):
            read_private_key(private, password)


def test_keys_of_other_kinds_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    other, junk = tmp_path / "ec", tmp_path / "junk"
    curve = generate_private_key(SECP256R1())
    other.write_bytes(curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    junk.write_bytes(b"\x00\xffjunk")
    with pytest.raises(ConfigError, match="is not an Ed25519 key"):
        read_private_key(other)
    other.write_bytes(curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigError, match="is not an Ed25519 key"):
        read_public_key(other)
    for read in (read_private_key, read_public_key):
        with pytest.raises(ConfigError, match=r"cannot be read as a (private|public) key"):
            read(junk)
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            read(tmp_path / "none")
    private, _ = write_key(tmp_path / "key", PrivateFormat.PKCS8)
    with pytest.raises(ConfigError, match="cannot be read as a public key"):
        read_public_key(private)
