"""The bearer tokens that open the live interface, each with the name of who has it.

A token file has one token, or one on each line with a name before it:

    alice 4f1c...
    nightly-job 9b02...

Names stand in the audit, tokens never. Blank lines and lines that begin with `# ` are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from moe_patch.errors import ConfigError

TOKEN = "MOE_PATCH_TOKEN"
TOKEN_FILE = "MOE_PATCH_TOKEN_FILE"

UNNAMED = "default"
"""The name of a token that has none."""

SHORTEST_TOKEN = 16
_MOST_READ = 64 * 1024  # characters of a token file; a device may have no end
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class Token:
    """A secret, and the name of who has it."""

    name: str
    secret: str = field(repr=False)


def read_tokens(environment: Mapping[str, str] = os.environ) -> tuple[Token, ...]:
    """The tokens from the environment, or from the file that it names; none if it has neither.

    Raises:
        ConfigError: the file cannot be read, or a token is too short, has other characters, or no name of its
            own.
    """
    token, file = environment.get(TOKEN), environment.get(TOKEN_FILE)
    if token is not None:
        return (_token(UNNAMED, token, TOKEN),)
    return () if file is None else token_file(file)


def token_file(file: str | Path) -> tuple[Token, ...]:
    """The tokens in a file.

    Raises:
        ConfigError: as for `read_tokens`, or there is no token in the file.
    """
    try:
        with Path(file).open(encoding="utf-8") as stream:
            text = stream.read(_MOST_READ + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{TOKEN_FILE}: {file} cannot be read: {error}") from error
    if len(text) > _MOST_READ:
        raise ConfigError(f"{TOKEN_FILE}: {file} is longer than {_MOST_READ} characters")
    found = tuple(_lines(text, f"{TOKEN_FILE}: {file}"))
    if not found:
        raise ConfigError(f"{TOKEN_FILE}: {file} has no token")
    for index, one in enumerate(found):
        for other in found[:index]:
            if one.name == other.name or one.secret == other.secret:
                raise ConfigError(
                    f"{TOKEN_FILE}: {file}: the tokens of {other.name} and {one.name}: expected each name "
                    "and each token once"
                )
    return found


def own_token(environment: Mapping[str, str] = os.environ) -> str | None:
    """The one token that a client sends.

    Raises:
        ConfigError: as for `read_tokens`, or there are several.
    """
    found = read_tokens(environment)
    if len(found) > 1:
        names = ", ".join(token.name for token in found)
        raise ConfigError(
            f"{TOKEN_FILE}: {environment[TOKEN_FILE]} has the tokens of {names}: put yours into a file of "
            "its own"
        )
    return found[0].secret if found else None


def _lines(text: str, source: str) -> Iterator[Token]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or line.startswith("# "):
            continue
        if len(words) > 2:
            raise ConfigError(f"{source}: line {number}: expected NAME TOKEN, or a token alone")
        name = words[0] if len(words) == 2 else UNNAMED
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"{source}: line {number}: a name has letters, digits and . _ @ -, at most 64 of them"
            )
        yield _token(name, words[-1], f"{source}: line {number}")


def _token(name: str, secret: str, source: str) -> Token:
    if len(secret) < SHORTEST_TOKEN or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise ConfigError(
            f"{source}: expected at least {SHORTEST_TOKEN} printable ASCII characters without a space"
        )
    return Token(name, secret)
