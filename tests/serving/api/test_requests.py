"""Who is let in."""

from __future__ import annotations

import pytest
from fastapi import Request

from moe_patch_serving.api.requests import TokenAuthentication
from moe_patch_serving.errors import SwitchedOff, Unauthorized

TOKEN = "0123456789abcdef"


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "headers": list(headers)})


def test_the_token_opens_the_door() -> None:
    for scheme in (b"Bearer", b"bearer", b"BEARER"):
        TokenAuthentication(TOKEN).check(request((b"authorization", scheme + b" " + TOKEN.encode())))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer 0123456789abcde",
        b"Bearer 0123456789abcdeF",
        b"Basic 0123456789abcdef",
    ],
)
def test_nothing_else_does(value: bytes) -> None:
    with pytest.raises(Unauthorized):
        TokenAuthentication(TOKEN).check(request((b"authorization", value)))
    with pytest.raises(Unauthorized):
        TokenAuthentication(TOKEN).check(request())


@pytest.mark.parametrize("value", [b"Bearer ", b"Bearer None", b""])
def test_where_there_is_no_token_nobody_gets_in(value: bytes) -> None:
    with pytest.raises(SwitchedOff, match="live changes are off"):
        TokenAuthentication(None).check(request((b"authorization", value)))
