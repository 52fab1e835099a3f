"""Tokens and their names, from the environment and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api.tokens import UNNAMED, Token, own_token, read_tokens, token_file

TOKEN = "0123456789abcdef"


def written(folder: Path, text: str) -> Path:
    file = folder / "tokens"
    file.write_text(text)
    return file


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = str(written(tmp_path, f"{TOKEN}\n"))
    assert read_tokens({}) == ()
    assert read_tokens({"MOE_PATCH_TOKEN_FILE": file}) == (Token(UNNAMED, TOKEN),)
    both = {"MOE_PATCH_TOKEN": TOKEN[::-1], "MOE_PATCH_TOKEN_FILE": file}
    assert read_tokens(both) == (Token(UNNAMED, TOKEN[::-1]),)
    assert TOKEN not in repr(read_tokens({"MOE_PATCH_TOKEN": TOKEN}))


def test_each_line_has_a_name_and_a_token(tmp_path: Path) -> None:
    text = f"# who may change the server\n\nalice {TOKEN}\n  nightly-job\t{TOKEN[::-1]}  \n"
    assert token_file(written(tmp_path, text)) == (Token("alice", TOKEN), Token("nightly-job", TOKEN[::-1]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no token"),
        ("# nothing\n", "has no token"),
        (f"alice {TOKEN}\nalice {TOKEN[::-1]}\n", "each name and each token once"),
        (f"alice {TOKEN}\nbob {TOKEN}\n", "each name and each token once"),
        (f"{TOKEN}\n{TOKEN[::-1]}\n", "each name and each token once"),
        (f"{TOKEN}\nalice short\n", "line 2: expected at least 16"),
        (f"alice {TOKEN} more\n", "line 1: expected NAME TOKEN"),
        (f"al/ice {TOKEN}\n", "line 1: a name has letters"),
        ("x" * 70_000, "is longer than"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        token_file(written(tmp_path, text))
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it", "héllo-wörld-héllo", "0123456789abcde\n"]
)
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(ConfigError, match="at least 16 printable ASCII") as caught:
        read_tokens({"MOE_PATCH_TOKEN": token})
    assert not token or token not in str(caught.value)


def test_a_token_file_that_is_missing() -> None:
    with pytest.raises(ConfigError, match="MOE_PATCH_TOKEN_FILE: /no/such/file cannot be read"):
        read_tokens({"MOE_PATCH_TOKEN_FILE": "/no/such/file"})


def test_a_client_has_one_token(tmp_path: Path) -> None:
    assert own_token({}) is None
    assert own_token({"MOE_PATCH_TOKEN_FILE": str(written(tmp_path, f"alice {TOKEN}\n"))}) == TOKEN
    both = written(tmp_path, f"alice {TOKEN}\nbob {TOKEN[::-1]}\n")
    with pytest.raises(ConfigError, match="the tokens of alice, bob: put yours into a file of its own"):
        own_token({"MOE_PATCH_TOKEN_FILE": str(both)})
