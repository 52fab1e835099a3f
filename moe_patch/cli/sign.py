"""`moe-patch sign`: sign a patch."""

from __future__ import annotations

from pathlib import Path

import click

from moe_patch.cli.console import print_json, say
from moe_patch.cli.options import FILE, json_option


@click.command(
    epilog="""\b
Example:
  ssh-keygen -t ed25519 -f release-key
  moe-patch sign capitals.safetensors --key release-key
"""
)
@click.argument("patch_path", metavar="PATCH", type=FILE)
@click.option(
    "--key", "key_path", type=FILE, required=True, help="Ed25519 private key, in PEM or OpenSSH's format."
)
@click.option("--passphrase", is_flag=True, help="Ask for the key's passphrase.")
@json_option
def sign(patch_path: Path, key_path: Path, passphrase: bool, as_json: bool) -> None:
    """Write the signature of PATCH beside it, as PATCH.sig.

    The patch is checked first. It is not changed.
    """
    from moe_patch.patch import load
    from moe_patch.patch.signature import read_private_key, signature_path
    from moe_patch.patch.signature import sign_patch as run

    password = click.prompt("Passphrase", hide_input=True, err=True).encode() if passphrase else None
    key = read_private_key(key_path, password)
    record = run(patch_path, load(patch_path).hash, key)
    if as_json:
        print_json({"signature": str(signature_path(patch_path)), "hash": record.hash, "key": record.key})
    else:
        say(f"{signature_path(patch_path)}: {record.hash} by the key {record.key}")
