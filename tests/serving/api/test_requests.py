"""Who is let in, and how long others wait."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from fastapi import Request

from moe_patch_serving.api import requests
from moe_patch_serving.api.requests import TokenAuthentication
from moe_patch_serving.api.tokens import Token
from moe_patch_serving.errors import SwitchedOff, Unauthorized

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "GUESS_SECONDS", 0.05)


def check(token: str | None, sent: Request) -> str:
    tokens = [] if token is None else [Token("alice", token), Token("bob", "another-token-of-bob")]
    return asyncio.run(TokenAuthentication(tokens).check(sent))


def request(*headers: tuple[bytes, bytes]) -> Request:
    scope = {"type": "http", "method": "POST", "headers": list(headers), "client": ("192.0.2.7", 4711)}
    return Request(scope)


def test_the_token_opens_the_door() -> None:
    for scheme in (b"Bearer", b"bearer", b"BEARER"):
        assert check(TOKEN, request((b"authorization", scheme + b" " + TOKEN.encode()))) == "alice"
    assert check(TOKEN, request((b"authorization", b"Bearer another-token-of-bob"))) == "bob"


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
        check(TOKEN, request((b"authorization", value)))
    with pytest.raises(Unauthorized):
        check(TOKEN, request())


@pytest.mark.parametrize("value", [b"Bearer ", b"Bearer None", b""])
def test_where_there_is_no_token_nobody_gets_in(value: bytes) -> None:
    with pytest.raises(SwitchedOff, match="live changes are off"):
        check(None, request((b"authorization", value)))


def test_guesses_are_slow_and_noted_without_what_was_guessed(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        authentication = TokenAuthentication([Token("alice", TOKEN)])
        wrong = request((b"authorization", b"Bearer a-secret-of-another"))
        begin = time.monotonic()
        guesses = [asyncio.create_task(authentication.check(wrong)) for _ in range(3 * requests.GUESSES)]
        await asyncio.sleep(0)
        await authentication.check(request((b"authorization", f"Bearer {TOKEN}".encode())))
        assert not any(guess.done() for guess in guesses)  # the right token does not wait for them
        answers = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(isinstance(answer, Unauthorized) for answer in answers)
        assert time.monotonic() - begin >= 3 * requests.GUESS_SECONDS

    with caplog.at_level(logging.WARNING, "vllm.moe_patch"):
        logging.getLogger("vllm").propagate = True
        asyncio.run(story())
    assert "no token or a wrong one, from 192.0.2.7" in caplog.text
    assert "a-secret-of-another" not in caplog.text
