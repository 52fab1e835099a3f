"""Signatures of patches: a detached Ed25519 signature (RFC 8032) of the content hash.

The signature is a file NAME.sig beside the patch. The content hash covers everything in a patch that has a
meaning. So a signature stays valid when the same content is written again, and adding one changes neither
the patch nor any stack that names it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from pydantic import Field, ValidationError

from moe_patch.errors import BadSignature, ConfigError, Unsigned
from moe_patch.io import strict_json
from moe_patch.io.closed_schema import ClosedSchema
from moe_patch.io.files import write_text
from moe_patch.io.reading import read_file
from moe_patch.patch.base_record import Sha256

SUFFIX = ".sig"

MOST_BYTES = 4096
"""The longest signature file, and the longest key file."""

_DOMAIN = b"moe-patch signature 1\n"  # so that a signature made for another purpose is not valid here
_MAKE_ONE = "make one with `ssh-keygen -t ed25519` or `openssl genpkey -algorithm ed25519`"


class SignatureRecord(ClosedSchema):
    """The content of a signature file."""

    format: Literal[1]
    algorithm: Literal["ed25519"]
    hash: Sha256
    key: Sha256
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def signature_path(patch_path: Path) -> Path:
    """The path of a patch file's signature."""
    return patch_path.with_name(patch_path.name + SUFFIX)


def key_id(key: Ed25519PublicKey) -> str:
    """The id of a public key: the SHA-256 of its 32 bytes, as "sha256:..."."""
    return f"sha256:{hashlib.sha256(key.public_bytes_raw()).hexdigest()}"


def sign_patch(patch_path: Path, content_hash: str, key: Ed25519PrivateKey) -> SignatureRecord:
    """Sign the patch at `patch_path`, which has this content hash. An earlier signature is replaced.

    Raises:
        OutputError: the operating system refuses to write.
    """
    record = SignatureRecord(
        format=1,
        algorithm="ed25519",
        hash=content_hash,
        key=key_id(key.public_key()),
        signature=key.sign(_message(content_hash)).hex(),
    )
    write_text(signature_path(patch_path), _text(record))
    return record


def check_signature(patch_path: Path, content_hash: str, trusted: Sequence[Ed25519PublicKey]) -> str:
    """The id of the trusted key that signed the patch at `patch_path`, which has this content hash.

    Raises:
        Unsigned: there is no signature file.
        BadSignature: the file is malformed, belongs to another patch, names a key that is not trusted, or
            the signature was not made with the key that it names.
    """
    path = signature_path(patch_path)
    record = _read_signature(path)
    if record.hash != content_hash:
        raise BadSignature(f"{path}: is of a patch with the hash {record.hash}, not {content_hash}")
    key = next((key for key in trusted if key_id(key) == record.key), None)
    if key is None:
        raise BadSignature(f"{path}: is by the key {record.key}, which is not among those trusted")
    try:
        key.verify(bytes.fromhex(record.signature), _message(content_hash))
    except InvalidSignature:
        raise BadSignature(f"{path}: the signature is not that of the key {record.key}") from None
    return record.key


def read_private_key(path: Path, password: bytes | None = None) -> Ed25519PrivateKey:
    """Read an Ed25519 private key in PEM (PKCS 8) or OpenSSH format.

    Raises:
        ConfigError: the file cannot be read, is no private key, is one of another kind, or the password is
            wrong or missing.
    """
    raw = _raw_key(path)
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in raw else load_pem_private_key
    try:
        key = load(raw, password)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: cannot be read as a private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is not an Ed25519 key; {_MAKE_ONE}")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Read an Ed25519 public key in PEM or OpenSSH format.

    Raises:
        ConfigError: the file cannot be read, is no public key, or is one of another kind.
    """
    raw = _raw_key(path)
    load = load_pem_public_key if raw.lstrip().startswith(b"-----") else load_ssh_public_key
    try:
        key = load(raw.strip())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: cannot be read as a public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: is not an Ed25519 key; {_MAKE_ONE}")
    return key


def _message(content_hash: str) -> bytes:
    return _DOMAIN + content_hash.encode()


def _raw_key(path: Path) -> bytes:
    try:
        return read_file(path, MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _read_signature(path: Path) -> SignatureRecord:
    try:
        raw = read_file(path, MOST_BYTES)
        record = SignatureRecord.model_validate(strict_json.parse_json(raw.decode()))
    except ValidationError as error:
        raise BadSignature(f"{path}: {strict_json.first_complaint(error)}") from error
    except ValueError as error:  # not UTF-8, or not strict JSON
        raise BadSignature(f"{path}: is no signature: {error}") from error
    except FileNotFoundError:
        raise Unsigned(f"{path}: there is no signature") from None
    except OSError as error:
        raise BadSignature(f"{path}: cannot be read: {error.strerror}") from error
    if raw.decode() != _text(record):
        raise BadSignature(f"{path}: expected canonical JSON: keys sorted, no white space but one line feed")
    return record


def _text(record: SignatureRecord) -> str:
    return strict_json.canonical_json(record.model_dump()) + "\n"
