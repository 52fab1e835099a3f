"""What the environment tells a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_patch.errors import ConfigError
from moe_patch_serving.api.settings import Patience, read_settings

TOKEN = "0123456789abcdef"


def test_nothing_said_means_nobody_may() -> None:
    settings = read_settings({})
    assert (settings.token, settings.allowed.folders, settings.allowed.hub) == (None, (), ())


def test_the_token_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_settings({"MOE_PATCH_TOKEN_FILE": str(file)}).token == TOKEN
    assert (
        read_settings({"MOE_PATCH_TOKEN": TOKEN[::-1], "MOE_PATCH_TOKEN_FILE": str(file)}).token
        == TOKEN[::-1]
    )
    assert TOKEN not in repr(read_settings({"MOE_PATCH_TOKEN": TOKEN}))


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it", "héllo-wörld-héllo", "0123456789abcde\n"]
)
def test_tokens_that_are_none(token: str) -> None:
    with pytest.raises(ConfigError, match="at least 16 printable ASCII") as caught:
        read_settings({"MOE_PATCH_TOKEN": token})
    assert not token or token not in str(caught.value)


def test_a_token_file_that_is_missing() -> None:
    with pytest.raises(ConfigError, match="MOE_PATCH_TOKEN_FILE: /no/such/file cannot be read"):
        read_settings({"MOE_PATCH_TOKEN_FILE": "/no/such/file"})


def test_places_stand_one_on_a_line(tmp_path: Path) -> None:
    allowed = read_settings({"MOE_PATCH_ALLOW": f"{tmp_path}\nhf://org\n"}).allowed
    assert (allowed.folders, allowed.hub) == ((tmp_path.resolve(),), ("hf://org",))


@pytest.mark.parametrize("name", ["MOE_PATCH_DRAIN_SECONDS", "MOE_PATCH_SELF_TEST_SECONDS"])
@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "nan", "inf"])
def test_a_wait_that_is_none(name: str, seconds: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: expected a number of seconds above 0"):
        read_settings({name: seconds})


def test_waits() -> None:
    waits = {"MOE_PATCH_DRAIN_SECONDS": "2.5", "MOE_PATCH_SELF_TEST_SECONDS": "2"}
    assert read_settings(waits).patience == Patience(drain=2.5, self_test=2)
